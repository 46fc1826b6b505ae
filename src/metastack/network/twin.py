"""The in-memory twin of the Network port: bridges and addresses are what a test or the simulator says."""

from __future__ import annotations

from metastack.ports import CannotStart

from .linux import LinuxNetwork


class MemoryNetwork(LinuxNetwork):
    """A host that has ``bridges``; :meth:`teach` is what a frame would do."""

    def __init__(self, bridges: tuple[str, ...] = ("br0",)) -> None:
        super().__init__()
        self._names = bridges
        self.listening: set[tuple[str, int]] = set()
        """Addresses and ports at which somebody answers."""

    async def open(self, bridges: tuple[str, ...]) -> None:
        return None

    def bridges(self) -> tuple[str, ...]:
        return self._names

    async def check(self, bridge: str) -> None:
        if bridge not in self._names:
            raise CannotStart(f"this node has no bridge {bridge!r}")

    async def answers(self, address: str, port: int, timeout_s: float) -> bool:
        return (address, port) in self.listening

    def teach(self, mac: str, address: str) -> None:
        self._note(mac, address)
