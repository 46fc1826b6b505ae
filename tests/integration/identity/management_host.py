"""A management host: a CA's folder, a context file, and the program."""

from __future__ import annotations

import os

from cli_program import Answer, Program
from secured_etcd import Secured

from metastack import contexts
from metastack.contexts import ENV_CONFIG
from metastack.pki.subject import Subject
from metastack.settings import StoreSettings


class Host:
    """Where an admin works."""

    def __init__(self, secured: Secured) -> None:
        self.secured = secured
        self.config = secured.folder / "home" / "config.toml"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("METASTACK_", "SUDO_"))}
        self.run = Program({**kept, ENV_CONFIG: str(self.config)})
        self.ca = ("--dir", str(secured.ca.path))

    async def init(self, *more: str) -> Answer:
        ends = [word for end in self.secured.etcd.endpoints for word in ("--endpoint", end)]
        return await self.run("cluster", "init", "lab", *self.ca, *ends, "-o", "json", *more)

    async def known_as(self, to: Subject, store: StoreSettings | None = None) -> None:
        """Make a context named after a subject, which is a user of etcd from now on."""
        await self.secured.admit(to)
        await self.context(to.name, store or self.secured.settings(to))

    async def context(self, name: str, store: StoreSettings) -> None:
        """A context as somebody else's machine has it: its certificate is not checked here."""
        os.environ[ENV_CONFIG] = str(self.config)
        try:
            contexts.save_context(contexts.Context(name=name, store=store), select=False)
        finally:
            del os.environ[ENV_CONFIG]

    async def asks(self, name: str, *line: str) -> Answer:
        """A command in a context, with machine output."""
        return await self.run("--context", name, *line, "-o", "json")
