"""Certificates and etcd users of a one-machine cluster that is secure: TLS and rights, as on real hosts.

Owns: a CA in the cluster's folder, an identity for each member, node and person, and giving them their rights.
Refuses: what an operator must not do either: nobody but the holder of ``root`` changes users.
Rule: the rights are set by a program of their own (``python -m metastack.lab.dev.identities FOLDER …``): this
process starts others for its whole life, and nothing may be forked after gRPC is loaded.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from metastack.core.etcd_roles import cluster_roles, node_role
from metastack.core.state.keys import Keys
from metastack.pki.files import CA_FILE, IdentityFiles, write_identity
from metastack.pki.folder import CaFolder
from metastack.pki.subject import Subject, SubjectKind, parse, subject
from metastack.ports import Unavailable
from metastack.settings import StoreSettings

from .etcd import EtcdTls

ADMIN: Final = "dev"
"""Name of the person whose certificate the cluster's context has; an admin."""
APPLY_S: Final = 60


@dataclass(frozen=True)
class Identities:
    """The identities of one cluster, in a folder of its own."""

    folder: Path

    def make(self, members: dict[str, str], nodes: dict[str, str]) -> None:
        """Make what is missing; members and nodes by name with their address."""
        ca = self.folder / "ca"
        there = (ca / CA_FILE).exists()
        authority = CaFolder(ca, _now) if there else CaFolder.make(ca, "metastack-dev", _now)
        wanted = [(subject(SubjectKind.ROOT), ""), (subject(SubjectKind.OPERATOR, ADMIN, "admin"), "")]
        wanted += [(subject(SubjectKind.ETCD, name), address) for name, address in members.items()]
        wanted += [(subject(SubjectKind.NODE, name), address) for name, address in nodes.items()]
        for to, address in wanted:
            if not self.files(to.user).cert.exists():
                self._issue(authority, to, address)

    def _issue(self, authority: CaFolder, to: Subject, address: str) -> None:
        hosts = [*dict.fromkeys((address, "localhost", "127.0.0.1"))] if to.serves else []
        issued = authority.issue(to, hosts)
        write_identity(
            self._of(to.user), to.user, authority.authority.certificate, issued.certificate, issued.key
        )

    def _of(self, user: str) -> Path:
        return self.folder / user

    def files(self, user: str) -> IdentityFiles:
        folder = self._of(user)
        return IdentityFiles(folder / CA_FILE, folder / f"{user}.crt", folder / f"{user}.key")

    def tls(self, member: str) -> EtcdTls:
        """What an etcd member serves with; clients must show a certificate."""
        files = self.files(f"etcd.{member}")
        return EtcdTls(cert=files.cert, key=files.key, client_ca=files.ca)

    def store(self, user: str, endpoints: Sequence[str], root: str) -> StoreSettings:
        """How that user reaches etcd."""
        files = self.files(user)
        return StoreSettings(
            endpoints=tuple(endpoints), root=root, ca=str(files.ca), cert=str(files.cert), key=str(files.key)
        )

    def give(self, user: str, uid: int, gid: int) -> None:
        """Let the person behind sudo use that identity."""
        for path in (self.folder, self._of(user), *self._of(user).iterdir()):
            os.chown(path, uid, gid)

    def apply(self, endpoints: Sequence[str], root: str) -> None:
        """Make etcd's users, roles and rights so; raises Unavailable."""
        argv = [sys.executable, "-m", "metastack.lab.dev.identities", str(self.folder), root, *endpoints]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=APPLY_S, check=False
        )
        if done.returncode:
            raise Unavailable(f"etcd's users were not made: {done.stderr.strip()[-800:]}")


def _now() -> datetime:
    return datetime.now(UTC)


def _subjects(folder: Path) -> list[Subject]:
    roles_of = {f"{SubjectKind.OPERATOR}.{ADMIN}": "admin"}
    named = [parse(one.name, roles_of.get(one.name, "")) for one in sorted(folder.iterdir())]
    return [one for one in named if one is not None]


async def _apply(folder: Path, root: str, endpoints: Sequence[str]) -> None:
    from metastack.store.etcd.users import ROOT, EtcdUsers

    keys, subjects = Keys(root), _subjects(folder)
    roles = [*cluster_roles(keys), *(node_role(keys, s.name) for s in subjects if s.kind is SubjectKind.NODE)]
    users = EtcdUsers(Identities(folder).store(ROOT, endpoints, root))
    try:
        await users.apply(roles, {s.user: s.etcd_roles() for s in subjects if s.etcd_roles()})
        await users.enable()
    finally:
        await users.close()


if __name__ == "__main__":
    asyncio.run(_apply(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
