"""The in-memory twin of the Network port: bridges by name, addresses as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from metastack.ports import NotFound


class MemoryNetwork:
    """A node that has these bridges."""

    def __init__(self, bridges: tuple[str, ...] = ("br0",)) -> None:
        self._bridges = bridges
        self._seen: dict[str, tuple[str, ...]] = {}
        self._news: asyncio.Queue[str] = asyncio.Queue(1024)

    def learn(self, mac: str, address: str) -> None:
        """A guest with this MAC uses this address from now on."""
        self._seen[mac] = (*self._seen.get(mac, ()), address)
        self._news.put_nowait(mac)

    async def check(self, bridge: str) -> None:
        if bridge not in self._bridges:
            raise NotFound(f"this node has no bridge {bridge!r}")

    def bridges(self) -> tuple[str, ...]:
        return self._bridges

    def addresses(self, mac: str) -> tuple[str, ...]:
        return self._seen.get(mac, ())

    async def changes(self) -> AsyncIterator[str]:
        while True:
            yield await self._news.get()

    async def open(self, bridges: tuple[str, ...]) -> None:
        pass

    async def close(self) -> None:
        pass
