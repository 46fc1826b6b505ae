"""docs/guide/install.md makes the Ceph user of ``pki serve`` with the rights that tests on a real Ceph use."""

from __future__ import annotations

import re
from pathlib import Path

from metastack.storage.ceph.rights import user_maker

PAGE = (Path(__file__).parents[3] / "docs" / "guide" / "install.md").read_text()


def test_the_maker_of_users_has_its_least_rights() -> None:
    found = re.search(r'client\.metastack-pki mon "((?:\\.|[^"])*)" -o', PAGE, re.S)
    assert found is not None
    text = found[1].replace("\\\n", "").replace('\\"', '"')
    assert " ".join(text.split()) == user_maker()["mon"]
