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
from typing import Final

from msgspec import Struct

from ....core.domains import Opener
from ....storage.twin import MemoryPool

WATCH_S: Final = 30.0
"""How long a dead client is still listed as a watcher."""


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
    dead: dict[str, tuple[str, str, float]] = field(default_factory=dict)
    """Clients that ended without closing their disk: which, from where, and when they ended."""
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

    def dies(self, client: str, address: str, volume: str) -> None:
        """A client's process ends without closing its disk: its watch stays for a while, its lock for ever."""
        self.dead[client] = (volume, address, asyncio.get_running_loop().time())

    def remains(self, volume: str) -> list[Opener]:
        """What dead clients left of a disk."""
        now_s = asyncio.get_running_loop().time()
        found = []
        for client, (of, address, died_s) in self.dead.items():
            watching, locking = now_s - died_s < WATCH_S, client not in self.broken
            if of == volume and (watching or locking):
                found.append(
                    Opener(
                        client=client,
                        address=address,
                        watching=watching,
                        locking=locking,
                        shut_out=self.refuses(client),
                    )
                )
        return found

    def is_open(self, path: str) -> bool:
        return self.watchers(path)

    def write(self, client: str, host: str, volume: str, uuid: str, epoch: int) -> bool:
        """One write arrives; False when it is refused."""
        if self.refuses(client):
            return False
        self.writes += 1
        self.wrote(Write(asyncio.get_running_loop().time(), volume, host, uuid, epoch))
        return True
