"""The simulated RBD pool: the storage's twin, and a record of who wrote to which disk in which epoch.

Owns: the writes of the guests, refused, stalled or landed, as Ceph would decide about them.
Refuses: locks. RBD's exclusive lock is no fence (two live clients hand it to each other), so nothing here keeps
two guests from writing but the blocklist: what the protocol promises must come from the protocol.
Assumption: a guest that was killed sends nothing more (the next opener of its image blocks the old client).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import Struct

from ..storage.memory import MemoryPool


class Write(Struct, frozen=True):
    """One write that landed."""

    at_s: float
    volume: str
    host: str
    uuid: str
    epoch: int


@dataclass
class RbdPool(MemoryPool):
    """A Ceph cluster."""

    writes: int = 0
    wrote: Callable[[Write], None] = lambda _write: None
    watchers: Callable[[str], bool] = lambda _path: False
    """Whether a live guest has the disk open."""
    troubles: list[Callable[[str, str], Exception | None]] = field(default_factory=list)
    """Faults of now, asked in their order; each ends by itself."""

    def __post_init__(self) -> None:
        self.fail = self._troubled

    def _troubled(self, what: str, address: str) -> Exception | None:
        for trouble in self.troubles:
            failure = trouble(what, address)
            if failure is not None:
                return failure
        return None

    def is_open(self, path: str) -> bool:
        return self.watchers(path)

    def write(self, client: str, host: str, volume: str, uuid: str, epoch: int) -> bool:
        """One write arrives; False when it is refused."""
        if self.refuses(client):
            return False
        self.writes += 1
        self.wrote(Write(asyncio.get_running_loop().time(), volume, host, uuid, epoch))
        return True
