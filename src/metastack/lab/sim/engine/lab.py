"""The lab: machines, an etcd, a pool and an operator, and one script played on them.

Owns: one run from its first second to its report. Refuses: judging (:mod:`metastack.lab.sim.judges.checkers`).
Rule: everything that happens follows from the script (its seed included); nothing else is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from random import Random
from typing import Any, Final

import msgspec

from ....core.domains import Opener
from ....core.model import ClusterConfig, Image, ImageState, Record, StorageIdentity, StoragePlace
from ....core.protocol.transaction import Delete, Outcome, Put, Transaction
from ....core.state.cluster_state import seen
from ....core.state.codec import encode
from ....core.state.keys import DEFAULT_ROOT, Keys
from ....core.state.record_versions import LEVEL, settings_level, written
from ....ports import StorageOwner
from ..judges.checkers import Checkers
from ..judges.linear import LinearityJudge
from ..judges.places import PlacementJudge
from ..script import upgrading
from ..script.catalogue import FAULTS, Fault
from ..script.expect import expect
from ..script.operator import Operator
from ..script.script import Script, Step
from . import trace as traces
from .etcd import SimCluster
from .host import BEAT_S, SimHost
from .loop import Process, VirtualLoop
from .loop import run as run_virtually
from .rbd import RbdPool
from .trace import Trace

IMAGE: Final = "11111111-0000-4000-8000-000000000000"
CLUSTER: Final = "sim"
"""The cluster's own id, which its disks bear."""
CONVERGE_S: Final = 240.0
"""The bound: this long after healing, everything must be as specified."""
STAY_S: Final = 40.0
"""And it must stay so: longer than one full look."""
LOOK_S: Final = 5.0


class Report(msgspec.Struct, kw_only=True):
    """What came of one run."""

    seed: int
    violations: list[str]
    trace_hash: str
    virtual_s: float
    real_s: float
    """CPU seconds of the simulation: what else runs on the machine does not count."""
    faults: dict[str, int]
    """Fault kind to how often it struck."""
    cells: dict[str, int]
    """``kind step`` to how often that fault struck in that step."""
    commits: int
    writes: int
    converged_s: float
    """From the healing to the first moment at which all was well; -1: never."""
    lines: list[str] = []
    events: list[tuple[float, str, str, dict[str, Any]]] = []


class Lab:
    """One run's world."""

    def __init__(self, script: Script, *, keep: bool) -> None:
        found = asyncio.get_running_loop()
        assert isinstance(found, VirtualLoop)
        self.loop: VirtualLoop = found
        self.script, self.seed = script, script.seed
        self.keys = Keys(DEFAULT_ROOT)
        self.keep = keep
        self.trace = Trace(keep)
        self.cluster = SimCluster()
        self.pool = RbdPool(images={IMAGE: 512})
        self.random = Random(f"{script.seed}/lab")
        self.graveyard: list[Process] = []
        self.found: list[str] = []
        self.forgotten: set[str] = set()
        """Disks that a restored etcd does not know of: nobody removes them; or forgot that they may go."""
        self.struck: dict[str, int] = {}
        self.cells: dict[str, int] = {}
        self._undo: dict[int, tuple[asyncio.TimerHandle, Callable[[], None]]] = {}
        self._undone = 0
        self._armed: list[tuple[Step, Fault]] = []
        self.strangers: dict[str, tuple[str, Opener]] = {}
        """Clients that are nobody's guest (``rbd map``, a lock by hand): the disk each has open, and how."""
        self.breaking = True
        self.slow_storage = False
        self.hosts = {f"n{i}": SimHost(self, f"n{i}", i) for i in range(1, script.nodes + 1)}
        self.operator = Operator(self)
        self.pool.watchers = self._watched
        self.pool.skew_s = lambda at: sum(h.skew_s for h in self.hosts.values() if h.address == at)
        self.pool.openers = lambda path: set().union(*(h.openers(path[8:]) for h in self.hosts.values()))
        if script.storage != "file":
            self.pool.holders = self._holders
        # One that takes no chance: what comes after it in a script is as it was.
        self.pool.delay_s = lambda what: 0.004 if what == "openers" else self.random.uniform(0.001, 0.01)
        self.places = PlacementJudge(self)
        self.checkers = Checkers(self)
        self.linear = LinearityJudge(self.cluster, self.violation)
        if "record_version" in dict(script.config):
            upgrading.judge(self)
        self.loop.set_exception_handler(self._loop_error)

    # --- what parts call

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
    def level(self) -> int:
        """The record level that commands find."""
        entry = self.cluster.get(self.keys.cluster())
        config = seen(ClusterConfig, entry).record if entry is not None else None
        return settings_level(config) if config is not None else 1

    def delete(self, key: str) -> None:
        self.cluster.apply(Transaction(name="operator", guards=(), effects=(Delete(key),)))

    def entered(self, host: SimHost, step: str) -> None:
        """An agent is in a step now: a fault may have been waiting for that."""
        if not self._armed:
            return
        waiting, self._armed = self._armed, []
        for wanted, fault in waiting:
            where, _, node = wanted.on.partition("/")
            if where == step and (not node or node == host.name):
                if fault.at_once:
                    self._strike(wanted, fault, host.name)  # before the request is sent
                    continue
                self.later(self.random.uniform(0.0, 0.003), partial(self._strike, wanted, fault, host.name))
            else:
                self._armed.append((wanted, fault))

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

    def event(self, node: str, name: str, fields: dict[str, Any]) -> None:
        """An agent logged something."""
        if self.keep:
            self.trace.events.append((self.loop.time(), node, name, fields))
        self.checkers.event(node, name, fields)

    # --- a run

    async def play(self) -> float:
        """Break, heal, judge; returns the seconds that convergence took, -1 for never."""
        config = {name: msgspec.json.decode(value) for name, value in self.script.config}
        settings = msgspec.convert({"record_version": LEVEL, **config}, ClusterConfig)
        self.pool.owner = StorageOwner(id=CLUSTER, cluster_id=CLUSTER, root=self.keys.root)
        place = StoragePlace(kind="file", fsid=CLUSTER) if self.script.storage == "file" else self.pool.place
        storage = StorageIdentity(**msgspec.structs.asdict(place), cluster_id=CLUSTER)
        both = Put(self.keys.cluster(), encode(settings)), Put(self.keys.storage(), encode(storage))
        self.by_hand(Transaction(name="operator", guards=(), effects=both))
        self.put(
            self.keys.image("debian"),
            Image(name="debian", uuid=IMAGE, state=ImageState.READY, size_bytes=512),
        )
        for host in self.hosts.values():
            host.start()
        self._beat()
        for step in self.script.steps:
            self.loop.call_at(step.at_s, self._step, step)
        await self._looking_until(self.script.until_s)
        self.heal()
        converged_s = await self._converge()
        self.checkers.at_the_end(converged_s >= 0)
        return converged_s

    async def _looking_until(self, at_s: float) -> None:
        while self.loop.time() < at_s:
            await asyncio.sleep(min(LOOK_S, at_s - self.loop.time()))
            self.checkers.look()

    async def _converge(self) -> float:
        healed_s = self.loop.time()
        first_s = -1.0
        wrong: list[str] = []
        while self.loop.time() < healed_s + CONVERGE_S:
            await asyncio.sleep(1.0)
            wrong = self.checkers.wrong()
            if wrong:
                continue
            first_s = self.loop.time() - healed_s
            await self._looking_until(self.loop.time() + STAY_S)
            wrong = self.checkers.wrong()
            if wrong:
                self.violation("did_not_stay", "; ".join(wrong[:5]))
            return first_s
        for line in wrong[:10]:
            self.violation("stuck", f"{CONVERGE_S:g} s after healing: {line}")
        return -1.0

    def _beat(self) -> None:
        for host in self.hosts.values():
            host.beat()
        self.checkers.who_can_write()
        self.later(BEAT_S, self._beat)

    # --- the script

    def _step(self, step: Step) -> None:
        if step.verb == "expect":
            wrong = expect(self, step.args)
            if wrong:
                self.violation("expected", f"{' '.join(step.args)}: {wrong}")
            return
        fault = FAULTS.get(step.verb)
        if fault is None:
            raise ValueError(f"no such verb: {step}")
        if step.on:
            self._armed.append((step, fault))
        else:
            self._strike(step, fault, "")

    def _strike(self, step: Step, fault: Fault, node: str) -> None:
        if not self.breaking:
            return
        args = tuple(node if arg == "@" else arg for arg in step.args)
        victims = [self.hosts[a] for a in args if a in self.hosts] if fault.scope == "node" else []
        during = {name for host in victims or self.hosts.values() for name in host.doing()}
        undo = fault.apply(self, args)
        said = " ".join([step.verb, *args, *(("for", f"{step.for_s:g}") if step.for_s is not None else ())])
        if undo is None:
            self.trace.add("--", f"{said} (nothing to do)")
            return
        self.trace.add("**", said)
        self.struck[step.verb] = self.struck.get(step.verb, 0) + 1
        for name in sorted(during):
            cell = f"{step.verb} {name}"
            self.cells[cell] = self.cells.get(cell, 0) + 1
        if step.for_s is not None:
            self._undone += 1
            number = self._undone
            timer = self.later(step.for_s, lambda: self._end(number))
            self._undo[number] = (timer, undo)

    def _end(self, number: int) -> None:
        found = self._undo.pop(number, None)
        if found is not None:
            found[0].cancel()
            found[1]()

    def heal(self) -> None:
        """Everything that was broken works again; what people requested stays."""
        self.trace.add("**", "heal")
        self.breaking = False
        self._armed.clear()
        for number in sorted(self._undo):
            self._end(number)
        for host in self.hosts.values():
            if host.configured != host.seen:
                host.crash()  # its agent asked for it: its configuration is corrected, and it is started again
            host.power_on()
            host.start()
        self.operator.uncordon_all()


def play(script: Script, *, keep: bool = False) -> Report:
    """Play a script in this process."""
    begun = time.process_time()

    async def whole() -> Report:
        lab = Lab(script, keep=keep)
        traces.listen(lab.trace)
        lab.trace.on_event = lab.event
        try:
            converged_s = await lab.play()
        finally:
            lab.trace.closed = True
            traces.listen(None)
            living = [host.process for host in lab.hosts.values() if host.process is not None]
            lab.cluster.listeners.clear()
            await lab.loop.bury([*lab.graveyard, *living])
            lab.cluster.stop()
        return Report(
            seed=script.seed,
            violations=lab.found,
            trace_hash=lab.trace.hash,
            virtual_s=lab.loop.time(),
            real_s=0.0,
            faults=lab.struck,
            cells=lab.cells,
            commits=lab.cluster.revision,
            writes=lab.pool.writes,
            converged_s=converged_s,
            lines=lab.trace.lines,
            events=lab.trace.events,
        )

    report = run_virtually(whole())
    report.real_s = time.process_time() - begun
    return report
