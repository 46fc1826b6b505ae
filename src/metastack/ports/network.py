"""The network port: bridges, and the addresses behind a MAC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


class Network(Protocol):
    """Host networking for guests. One bridge a NIC for now; overlays come behind the same seam."""

    async def check(self, bridge: str) -> None:
        """Raises CannotStart when this node has no such bridge."""
        ...

    def bridges(self) -> tuple[str, ...]:
        """Names of the bridges that this node has, sorted."""
        ...

    def addresses(self, mac: str) -> tuple[str, ...]:
        """IP addresses seen from that MAC (DHCP and ARP snooping), newest last."""
        ...

    async def answers(self, address: str, port: int, timeout_s: float) -> bool:
        """Whether anybody takes a TCP connection there within that time, from this node."""
        ...

    def changes(self) -> AsyncIterator[str]:
        """MACs whose addresses changed."""
        ...

    async def open(self, bridges: tuple[str, ...]) -> None: ...

    async def close(self) -> None: ...
