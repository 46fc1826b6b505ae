"""Who may save etcd, where its rights are on: the service backup as the guide makes it, and no person."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import tomli_w
from cli_program import Program
from msgspec import to_builtins
from secured_etcd import Secured

from metastack.contexts import ENV_CONFIG, Context
from metastack.core.etcd_roles import cluster_roles
from metastack.core.state.keys import Keys
from metastack.pki.subject import Subject, SubjectKind, subject

pytestmark = pytest.mark.etcd

PAGE = Path(__file__).parents[3] / "docs/guide/backup.md"
ADMIN = subject(SubjectKind.OPERATOR, "anna", "admin")
BACKUP = subject(SubjectKind.SERVICE, "backup")


def program_of(secured: Secured, who: Subject) -> Program:
    context = to_builtins(Context(name="lab", store=secured.settings(who)))
    del context["name"]
    file = secured.folder / f"{who.user}.toml"
    file.write_text(tomli_w.dumps({"current": "lab", "contexts": {"lab": context}}))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("METASTACK_", "SUDO_"))}
    return Program({**kept, ENV_CONFIG: str(file)})


def make_the_service(secured: Secured) -> None:
    """As the guide tells it, with this etcd's endpoint and root's certificate."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("etcdctl user ")]
    assert len(lines) == 2
    root = secured.files(secured.root)
    for line in lines:
        done = subprocess.run(
            line.split(),
            env={
                "PATH": os.environ["PATH"],
                "ETCDCTL_API": "3",
                "ETCDCTL_ENDPOINTS": secured.etcd.endpoints[0],
                "ETCDCTL_CACERT": str(root.ca),
                "ETCDCTL_CERT": str(root.cert),
                "ETCDCTL_KEY": str(root.key),
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done


async def test_only_the_backup_service_may_save_etcd(secured: Secured, tmp_path: Path) -> None:
    async with secured.users() as users:
        await users.apply(cluster_roles(Keys()), {one.user: one.etcd_roles() for one in (ADMIN, secured.root)})
        await users.enable()
    refused = await program_of(secured, ADMIN)("cluster", "backup", "--to", str(tmp_path), "-o", "json")
    assert (refused.status, refused.error()["code"]) == (6, "denied")
    assert "metastack pki issue service backup" in refused.error()["hint"]
    assert os.listdir(tmp_path) == []
    make_the_service(secured)
    saved = (await program_of(secured, BACKUP)("cluster", "backup", "--to", str(tmp_path), "-o", "json")).json()
    assert saved["trouble"] is None
    checked = await program_of(secured, ADMIN)("cluster", "backup", "--verify", saved["file"])
    assert checked.status == 0  # the file says it all: etcd is not asked
