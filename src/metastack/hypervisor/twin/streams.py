"""Streams of a simulated host: events and consoles.

Owns: bounded queues between the twin and whoever listens. Refuses: to know about domains.
Rule: a queue that overflows says "look at everything" instead of forgetting.
"""

from __future__ import annotations

import asyncio
from typing import Final

from metastack.ports import DomainEvent, Unavailable

_BOUND: Final = 4096


class EventQueue:
    """Bounded like the real one's; overflow means: look at everything."""

    def __init__(self) -> None:
        self._pending: dict[DomainEvent, None] = {}
        self._arrived = asyncio.Event()
        self._closed = False

    def post(self, event: DomainEvent) -> None:
        if event not in self._pending and len(self._pending) >= _BOUND:
            self._pending.clear()
            event = DomainEvent(uuid="", what="reconnected")
        self._pending.pop(event, None)
        self._pending[event] = None
        self._arrived.set()

    def close(self) -> None:
        self._closed = True
        self._arrived.set()

    def __aiter__(self) -> EventQueue:
        return self

    async def __anext__(self) -> DomainEvent:
        while not self._closed:
            if self._pending:
                event = next(iter(self._pending))
                del self._pending[event]
                return event
            self._arrived.clear()
            await self._arrived.wait()
        raise StopAsyncIteration


class MemoryConsole:
    """A guest that echoes."""

    def __init__(self) -> None:
        self._text = b""
        self._ended = False
        self._arrived = asyncio.Event()

    def end(self) -> None:
        self._ended = True
        self._arrived.set()

    async def read(self) -> bytes:
        while not self._text and not self._ended:
            self._arrived.clear()
            await self._arrived.wait()
        text, self._text = self._text, b""
        return text

    async def write(self, data: bytes) -> None:
        if self._ended:
            raise Unavailable("console: it has ended")
        self._text = (self._text + data)[-65_536:]
        self._arrived.set()

    async def close(self) -> None:
        self.end()
