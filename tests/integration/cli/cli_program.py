"""Running the program: as a process with pipes, or on a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from dataclasses import dataclass
from typing import Any

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Answer:
    """How a process ended and what it said."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.status == 0, self
        return json.loads(self.out)

    def error(self) -> dict[str, Any]:
        """The one JSON error on stderr."""
        found = json.loads(self.err)
        assert list(found) == ["error"], self
        assert list(found["error"]) == ["code", "object", "message", "hint"], self
        return dict(found["error"])


class Program:
    """``metastack`` with an environment."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    async def start(
        self, *args: str, stdin: int = asyncio.subprocess.DEVNULL, user: int | None = None, **env: str
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "metastack.cli.main",
            *args,
            env={**self.env, **env},
            stdin=stdin,
            user=user,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *args: str, **env: str) -> Answer:
        process = await self.start(*args, **env)
        return await finish(process)

    async def on_terminal(self, *args: str, typed: bytes = b"", **env: str) -> tuple[int, str]:
        """Run on a terminal of its own; everything shown on it."""
        master, slave = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "metastack.cli.main",
            *args,
            env={**self.env, "TERM": "xterm", **env},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        try:
            async with asyncio.timeout(DEADLINE_S):
                if typed:
                    os.write(master, typed)
                shown = await read_terminal(master)
                return await process.wait(), shown.decode(errors="replace")
        finally:
            os.close(master)


async def finish(process: asyncio.subprocess.Process, stdin: bytes | None = None) -> Answer:
    async with asyncio.timeout(DEADLINE_S):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return Answer(process.returncode, out.decode(), err.decode())


async def read_terminal(master: int, until: bytes = b"") -> bytes:
    """What is shown until the terminal is closed, or until a text appears."""
    loop, shown = asyncio.get_running_loop(), b""
    while not until or until not in shown:
        ready = loop.create_future()
        loop.add_reader(master, lambda found=ready: found.done() or found.set_result(None))  # type: ignore[misc]
        try:
            await ready
        finally:
            loop.remove_reader(master)
        try:
            data = os.read(master, 65536)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        shown += data
    return shown
