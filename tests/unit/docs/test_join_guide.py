"""The guide and the playbooks make the Ceph user of ``pki serve`` with the rights that tests on Ceph use."""

from __future__ import annotations

import re
from pathlib import Path

from metastack.storage.ceph.rights import user_maker

TOP = Path(__file__).parents[3]
PAGE = (TOP / "docs" / "guide" / "install.md").read_text()
ROLE = (TOP / "deploy" / "ansible" / "roles" / "management" / "vars" / "main.yml").read_text()


def test_the_maker_of_users_has_its_least_rights() -> None:
    found = re.search(r'client\.metastack-pki mon "((?:\\.|[^"])*)" -o', PAGE, re.S)
    assert found is not None
    text = found[1].replace("\\\n", "").replace('\\"', '"')
    assert " ".join(text.split()) == user_maker()["mon"]


def test_the_role_gives_it_the_same() -> None:
    text = ROLE.split("management_pki_rights: >-\n", 1)[1]
    assert " ".join(text.split()) == user_maker()["mon"]
