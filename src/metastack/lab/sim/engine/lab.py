"""The lab: machines, an etcd, a pool and an operator, in virtual time. What happens to them is a run's matter.

Owns: what all parts of one simulated world share. Refuses: choosing what happens (script/), and judging.
Rule: everything follows from the seed and from what is done to it; nothing else is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from random import Random
from typing import Any, Final

import msgspec

from ....core.domains import Opener
from ....core.model import ClusterConfig, Record
from ....core.state.cluster_state import seen
from ....core.state.codec import encode
from ....core.state.keys import DEFAULT_ROOT, Keys
from ....core.state.record_versions import settings_level, written
from ....core.transaction import Delete, Outcome, Put, Transaction
from .etcd import SimCluster
from .host import Observer, SimHost
from .loop import Process, VirtualLoop
from .operator import Operator
from .rbd import RbdPool
from .spec_words import IMAGE
from .trace import Trace

CLUSTER: Final = "sim"
"""The cluster's own id, which its disks bear."""


class Lab:
    """One run's world."""

    observer: Observer
    """Told of what machines do; set by whoever plays."""

    def __init__(self, seed: int, nodes: int, storage: str, address: str, trace: Trace) -> None:
        found = asyncio.get_running_loop()
        assert isinstance(found, VirtualLoop)
        self.loop: VirtualLoop = found
        self.seed, self.storage, self.address = seed, storage, address
        """``storage``, ``address``: words of a script (``script/script.py``)."""
        self.keys = Keys(DEFAULT_ROOT)
        self.trace = trace
        self.cluster = SimCluster()
        self.pool = RbdPool(images={IMAGE: 512})
        self.random = Random(f"{seed}/lab")
        self.graveyard: list[Process] = []
        self.found: list[str] = []
        self.forgotten: set[str] = set()
        """Disks that a restored etcd does not know of: nobody removes them; or forgot that they may go."""
        self.strangers: dict[str, tuple[str, Opener]] = {}
        """Clients that are nobody's guest (``rbd map``, a lock by hand): the disk each has open, and how."""
        self.slow_storage = False
        self.operator = Operator(self)
        self.hosts = {f"n{i}": SimHost(self, f"n{i}", i) for i in range(1, nodes + 1)}
        self.pool.watchers = self._watched
        self.pool.skew_s = lambda at: sum(h.skew_s for h in self.hosts.values() if h.address == at)
        self.pool.openers = lambda path: set().union(*(h.openers(path[8:]) for h in self.hosts.values()))
        if storage != "file":
            self.pool.holders = self._holders
        # One that takes no chance: what comes after it in a script is as it was.
        self.pool.delay_s = lambda what: 0.004 if what == "openers" else self.random.uniform(0.001, 0.01)
        self.loop.set_exception_handler(self._loop_error)

    def violation(self, kind: str, what: str) -> None:
        """Collect; nothing is raised, since a raise in a detached task would be lost."""
        line = f"{kind}: {what}"
        self.trace.add("!!", line)
        if len(self.found) < 50:
            self.found.append(f"{self.loop.time():.3f} {line}")

    def later(self, delay_s: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        """Do something in a while, as nobody's process."""
        return self.loop.call_later(delay_s, call, context=Context())

    def put(self, key: str, record: Record) -> None:
        """An operator's write: at once, whatever the network of the nodes is like."""
        self.by_hand(Transaction(name="operator", guards=(), effects=(Put(key, encode(record)),)))

    def by_hand(self, change: Transaction) -> Outcome:
        """A command's change, in the cluster's record level."""
        return self.cluster.apply(written(change, self.keys, self.level))

    @property
    def config(self) -> ClusterConfig:
        """The settings that commands find."""
        entry = self.cluster.get(self.keys.cluster())
        config = seen(ClusterConfig, entry).record if entry is not None else None
        return config if config is not None else ClusterConfig()

    @property
    def level(self) -> int:
        """The record level that commands find."""
        return settings_level(self.config)

    def delete(self, key: str) -> None:
        self.cluster.apply(Transaction(name="operator", guards=(), effects=(Delete(key),)))

    def _holders(self, path: str) -> tuple[Opener, ...]:
        volume = path.rsplit("/", 1)[1]
        found = [opener for host in self.hosts.values() for opener in host.holds(volume)]
        strangers = [
            msgspec.structs.replace(opener, shut_out=self.pool.refuses(opener.client))
            for of, opener in self.strangers.values()
            if of == volume and not (opener.client in self.pool.broken and not opener.watching)
        ]
        return tuple(sorted([*found, *strangers, *self.pool.remains(volume)], key=lambda one: one.client))

    def _watched(self, path: str) -> bool:
        uuid = path.rsplit("/", 1)[1]
        return any(
            domain.volume_uuid == uuid and not self.pool.refuses(host.client_of(domain.uuid))
            for host in self.hosts.values()
            if host.powered and host.address not in self.pool.cut
            for domain in host.hypervisor.active()
        )

    def _loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.violation("loop_error", f"{context.get('message')}: {type(error).__name__}: {error}")
