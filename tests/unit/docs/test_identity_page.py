"""docs/reference/identity.md has every kind of certificate, role, service and refusal of a token."""

from __future__ import annotations

import re
from pathlib import Path

from metastack.core.etcd_roles import SERVICE_ROLES, cluster_roles
from metastack.core.state.keys import Keys
from metastack.pki.refusal import Why
from metastack.pki.subject import LIFE_DAYS

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "identity.md").read_text()


def first_cells(heading: str) -> set[str]:
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| `([\w.]+)` \|", section, re.M))


def test_every_kind_of_certificate_is_there() -> None:
    assert first_cells("Certificates") == set(LIFE_DAYS)


def test_every_role_is_there() -> None:
    assert first_cells("Roles in etcd") == {*(role.name for role in cluster_roles(Keys())), "node.N", "join.ID"}
    for service in SERVICE_ROLES:
        assert f"`{service}`" in PAGE


def test_refusals_of_tokens_exist() -> None:
    assert first_cells("Join tokens") <= set(Why)
    source = Path(__file__).parents[3] / "src" / "metastack"
    files = [source / "pki" / "tokens.py", *(source / "commands" / "joining").glob("*.py")]
    raised = {Why[name] for path in files for name in re.findall(r"Why\.(\w+)", path.read_text())}
    assert raised - {Why.BAD_NAME, Why.BAD_LIFE, Why.NOT_READABLE} == first_cells("Join tokens")
