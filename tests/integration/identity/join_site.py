"""A management host with ``pki serve``, an admin, and hosts that join: the programs themselves."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import tomli_w
from cli_program import Answer, Program
from secured_etcd import Secured

from metastack.commands.cluster.identity import secure
from metastack.commands.request import Cluster, new_request
from metastack.contexts import ENV_CONFIG
from metastack.core.state.keys import Keys
from metastack.pki.subject import SubjectKind, subject
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore
from metastack.store.etcd.users import EtcdUsers

KEYS = Keys()


class Site:
    """A management host with ``pki serve``, an admin's context, and hosts that join."""

    def __init__(self, secured: Secured, storage: dict[str, Any]) -> None:
        self.secured = secured
        self.admin = subject(SubjectKind.OPERATOR, "anna", "admin")
        self.pki = subject(SubjectKind.SERVICE, "pki")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("METASTACK_", "SUDO_"))}
        self.run = Program({**kept, ENV_CONFIG: str(self.context("anna", self.admin, storage))})
        self.server = Program({**kept, ENV_CONFIG: str(self.context("pki", self.pki, storage))})

    def context(self, name: str, to: Any, storage: dict[str, Any]) -> Path:
        reached = self.secured.settings(to)
        store = {key: getattr(reached, key) for key in ("ca", "cert", "key")} | {
            "endpoints": list(reached.endpoints)
        }
        path = self.secured.folder / f"{name}.toml"
        path.write_text(
            tomli_w.dumps({"current": name, "contexts": {name: {"store": store, "storage": storage}}})
        )
        path.chmod(0o600)
        return path

    async def begin(self) -> None:
        """Rights on."""
        settings = self.secured.settings(self.secured.root)
        store, users = EtcdStore(settings), EtcdUsers(settings)
        await secure(Cluster(store, KEYS), users, self.admin, new_request())
        await users.apply(users={self.pki.user: self.pki.etcd_roles()})
        await users.close()
        await store.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await self.server.start("pki", "serve", "--dir", str(self.secured.ca.path))
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            async with asyncio.timeout(30):
                while b"pki_serving" not in (line := await process.stderr.readline()):
                    assert line, "pki serve ended"
            reader = asyncio.create_task(process.stderr.read())
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()
            await reader

    async def token(self, node: str = "n1", *more: str) -> str:
        answer = await self.run("node", "token", "create", node, *more, "-o", "json")
        return str(answer.json()["token"])

    async def join(self, token: str, root: Path, *more: str, **env: str) -> Answer:
        return await self.run("node", "join", token, "--root", str(root), "-o", "json", *more, **env)

    def node(self, root: Path, name: str = "n1") -> StoreSettings:
        """How that node reaches etcd, by what the join wrote."""
        pki = root / "etc" / "metastack" / "pki"
        return StoreSettings(
            endpoints=self.secured.etcd.endpoints,
            ca=str(pki / "ca.crt"),
            cert=str(pki / f"node.{name}.crt"),
            key=str(pki / f"node.{name}.key"),
        )
