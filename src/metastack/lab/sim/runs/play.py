"""One run: a script played on a lab, from its first second to its report.

Owns: when faults strike, the healing, and the two phases after it. Refuses: judging (judges/).
Rule: everything that happens follows from the script (its seed included); nothing else is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from ....core.model import ClusterConfig, Image, ImageState, StorageIdentity, StoragePlace
from ....core.state.codec import encode
from ....core.state.record_versions import LEVEL
from ....core.transaction import Put, Transaction
from ....ports import DomainSpec, StorageOwner
from ..engine import trace as traces
from ..engine.host import BEAT_S, SimHost
from ..engine.lab import CLUSTER, Lab
from ..engine.loop import run as run_virtually
from ..engine.spec_words import IMAGE
from ..engine.trace import Trace
from ..judges.checkers import Checkers
from ..judges.linearizability_judge import LinearizabilityJudge
from ..judges.placement_judge import PlacementJudge
from ..judges.versions import judge_versions
from ..script.catalogue import FAULTS
from ..script.expect import expect
from ..script.script import Script, Step
from ..script.verbs import Fault

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


class Run:
    """One script, played on a world of its own."""

    def __init__(self, script: Script, *, keep: bool) -> None:
        self._script, self._keep = script, keep
        self.lab = lab = Lab(script.seed, script.nodes, script.storage, script.address, Trace(keep))
        self.struck: dict[str, int] = {}
        self.cells: dict[str, int] = {}
        self._undo: dict[int, tuple[asyncio.TimerHandle, Callable[[], None]]] = {}
        self._undone = 0
        self._armed: list[tuple[Step, Fault]] = []
        self._breaking = True
        self._placement_judge = PlacementJudge(lab)
        self._checkers = Checkers(lab, self._placement_judge)
        self.answers = LinearizabilityJudge(lab.cluster, lab.violation)
        if "record_version" in dict(script.config):
            judge_versions(lab)
        lab.observer = self

    # --- what machines tell

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
                self.lab.later(
                    self.lab.random.uniform(0.0, 0.003), partial(self._strike, wanted, fault, host.name)
                )
            else:
                self._armed.append((wanted, fault))

    def guest_runs(self) -> None:
        """A guest begins to run, or goes on."""
        self._checkers.who_can_write()

    def asked(self, host: SimHost, what: str, about: Any) -> None:
        """An agent asks its hypervisor to boot, to end or to stop a guest."""
        hypervisor_judge = self._checkers.hypervisor_judge
        if what == "boot":
            hypervisor_judge.boot(host, about)
        else:
            hypervisor_judge.end(host, about, what)

    def ended(self, host: SimHost, uuid: str, spec: DomainSpec | None) -> None:
        """A guest was ended by force."""
        self._checkers.hypervisor_judge.ended(host, uuid, spec)

    def event(self, node: str, name: str, fields: dict[str, Any]) -> None:
        """An agent logged something."""
        if self._keep:
            self.lab.trace.events.append((self.lab.loop.time(), node, name, fields))
        self._checkers.event(node, name, fields)

    # --- a run

    async def play(self) -> float:
        """Break, heal, judge; returns the seconds that convergence took, -1 for never."""
        lab = self.lab
        config = {name: msgspec.json.decode(value) for name, value in self._script.config}
        settings = msgspec.convert({"record_version": LEVEL, **config}, ClusterConfig)
        lab.pool.owner = StorageOwner(id=CLUSTER, cluster_id=CLUSTER, root=lab.keys.root)
        place = StoragePlace(kind="file", fsid=CLUSTER) if lab.storage == "file" else lab.pool.place
        storage = StorageIdentity(**msgspec.structs.asdict(place), cluster_id=CLUSTER)
        both = Put(lab.keys.cluster(), encode(settings)), Put(lab.keys.storage(), encode(storage))
        lab.by_hand(Transaction(name="operator", guards=(), effects=both))
        lab.put(
            lab.keys.image("debian"),
            Image(name="debian", uuid=IMAGE, state=ImageState.READY, size_bytes=512),
        )
        for host in lab.hosts.values():
            host.start()
        self._beat()
        for step in self._script.steps:
            self.lab.loop.call_at(step.at_s, self._step, step)
        await self._looking_until(self._script.until_s)
        self.heal()
        converged_s = await self._converge()
        self._checkers.at_the_end(converged_s >= 0)
        return converged_s

    async def _looking_until(self, at_s: float) -> None:
        while self.lab.loop.time() < at_s:
            await asyncio.sleep(min(LOOK_S, at_s - self.lab.loop.time()))
            self._checkers.look()

    async def _converge(self) -> float:
        healed_s = self.lab.loop.time()
        first_s = -1.0
        wrong: list[str] = []
        while self.lab.loop.time() < healed_s + CONVERGE_S:
            await asyncio.sleep(1.0)
            wrong = self._checkers.wrong()
            if wrong:
                continue
            first_s = self.lab.loop.time() - healed_s
            await self._looking_until(self.lab.loop.time() + STAY_S)
            wrong = self._checkers.wrong()
            if wrong:
                self.lab.violation("did_not_stay", "; ".join(wrong[:5]))
            return first_s
        for line in wrong[:10]:
            self.lab.violation("stuck", f"{CONVERGE_S:g} s after healing: {line}")
        return -1.0

    def _beat(self) -> None:
        for host in self.lab.hosts.values():
            host.beat()
        self._checkers.who_can_write()
        self.lab.later(BEAT_S, self._beat)

    # --- the script

    def _step(self, step: Step) -> None:
        if step.verb == "expect":
            wrong = expect(self.lab, step.args)
            if wrong:
                self.lab.violation("expected", f"{' '.join(step.args)}: {wrong}")
            return
        fault = FAULTS.get(step.verb)
        if fault is None:
            raise ValueError(f"no such verb: {step}")
        if step.on:
            self._armed.append((step, fault))
        else:
            self._strike(step, fault, "")

    def _strike(self, step: Step, fault: Fault, node: str) -> None:
        if not self._breaking:
            return
        args = tuple(node if arg == "@" else arg for arg in step.args)
        victims = [self.lab.hosts[a] for a in args if a in self.lab.hosts] if fault.scope == "node" else []
        during = {name for host in victims or self.lab.hosts.values() for name in host.doing()}
        undo = fault.apply(self.lab, args)
        said = " ".join([step.verb, *args, *(("for", f"{step.for_s:g}") if step.for_s is not None else ())])
        if undo is None:
            self.lab.trace.add("--", f"{said} (nothing to do)")
            return
        self.lab.trace.add("**", said)
        self.struck[step.verb] = self.struck.get(step.verb, 0) + 1
        for name in sorted(during):
            cell = f"{step.verb} {name}"
            self.cells[cell] = self.cells.get(cell, 0) + 1
        if step.for_s is not None:
            self._undone += 1
            number = self._undone
            timer = self.lab.later(step.for_s, lambda: self._end(number))
            self._undo[number] = (timer, undo)

    def _end(self, number: int) -> None:
        found = self._undo.pop(number, None)
        if found is not None:
            found[0].cancel()
            found[1]()

    def heal(self) -> None:
        """Everything that was broken works again; what people requested stays."""
        self.lab.trace.add("**", "heal")
        self._breaking = False
        self._armed.clear()
        for number in sorted(self._undo):
            self._end(number)
        for host in self.lab.hosts.values():
            if host.configured != host.seen:
                host.crash()  # its agent asked for it: its configuration is corrected, and it is started again
            host.power_on()
            host.start()
        self.lab.operator.uncordon_all(self.lab.hosts)


def play(script: Script, *, keep: bool = False) -> Report:
    """Play a script in this process."""
    begun = time.process_time()

    async def whole() -> Report:
        run = Run(script, keep=keep)
        lab = run.lab
        traces.listen(lab.trace)
        lab.trace.on_event = run.event
        try:
            converged_s = await run.play()
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
            faults=run.struck,
            cells=run.cells,
            commits=lab.cluster.revision,
            writes=lab.pool.writes,
            converged_s=converged_s,
            lines=lab.trace.lines,
            events=lab.trace.events,
        )

    report = run_virtually(whole())
    report.real_s = time.process_time() - begun
    return report
