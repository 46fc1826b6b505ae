"""Rounds: faults, heal, convergence, judgement; one after the other on one living cluster.

Owns: the order within a round, its bounds, what is kept of it, and the evidence of a violation.
Refuses: choosing faults and judging disks. Rule: acknowledgements are taken before the disk is read, so every
one of them must be on it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from metastack.ports import Broken, Unavailable

from .. import proc
from .faults import ROLES, Fault
from .inject import Injector
from .judge import Known, Violation, ViolationKind, judge, order
from .ring import BYTES, Ack, parse
from .schedule import Planned
from .stage import Stage

BACK_WITHIN_S = 240.0
"""After everything was taken back. An agent that finds an unblock under way waits 120 s of that, rightly."""
BRAKE_SAID_WITHIN_S = 6.0
ALIVE_S = 2.0
"""A guest that was silent for less than this is taken to run."""


@dataclass(kw_only=True)
class Round:
    """What a round was and showed; the fields are those of its JSON line."""

    number: int
    faults: list[str]
    kinds: list[str]
    did: list[dict[str, Any]] = field(default_factory=list)
    hold_s: float = 0.0
    converge_s: float = 0.0
    vms: dict[str, dict[str, Any]] = field(default_factory=dict)
    brake_said: bool = False
    records: int = 0
    acknowledged: int = 0
    unread: int = 0
    """Acknowledged, and overwritten by the ring's next turn before it was read: proves nothing."""
    violations: list[Violation] = field(default_factory=list)


class Rounds:
    """The rounds of one run."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._injector = Injector(stage.cluster)
        self._known = {vm: Known() for vm in stage.volumes}
        self._judged = dict.fromkeys(stage.volumes, 0)
        """How many acknowledgements of each VM were looked at."""

    def settle(self) -> None:
        """Wait until the cluster is whole and every guest writes. Raises Unavailable."""
        begun_s = time.monotonic()
        if left := self._converge(begun_s):
            raise Unavailable(f"the cluster did not begin: {'; '.join(v.what for v in left)}\n{self.seen()}")

    def play(self, plan: Planned) -> Round:
        """One round, judged."""
        done = Round(
            number=plan.number, faults=[str(f) for f in plan.faults], kinds=[f.kind.value for f in plan.faults]
        )
        census = self.stage.census
        census.brake_said, census.unsaid_s, census.two_gone_since_s = 0, 0.0, 0.0
        begun_s = time.monotonic()
        done.did = self._injector.play(self._aimed(plan.faults))
        self._injector.heal()
        healed_s = time.monotonic()
        done.hold_s = round(healed_s - begun_s, 2)
        silent = [vm for vm in self.stage.volumes if healed_s - self._last_s(vm) > ALIVE_S]
        done.violations += self._converge(healed_s)
        done.converge_s = round(time.monotonic() - healed_s, 2)
        done.brake_said = census.brake_said > 0
        if census.unsaid_s > BRAKE_SAID_WITHIN_S:
            what = f"two of three nodes were gone for {census.unsaid_s:.1f} s but no node reported the brake"
            done.violations.append(Violation(crime=ViolationKind.BRAKE_UNSAID, vm="", what=what))
        for vm in self.stage.volumes:
            done.vms[vm] = self._story(vm, begun_s, healed_s if vm in silent else None)
        self.look(done)
        return done

    def _aimed(self, faults: Sequence[Fault]) -> list[Fault]:
        """The faults with names of nodes in place of roles."""
        nodes = self.stage.cluster.state.nodes
        guests = Counter(ack.node for vm in self.stage.volumes if (ack := self.stage.ears.last(vm)) is not None)
        ranked = sorted(nodes, key=lambda node: (-guests[node], node))
        names = dict(zip(ROLES, ranked, strict=True))
        return [msgspec.structs.replace(one, target=names.get(one.target, one.target)) for one in faults]

    # --- convergence

    def _last_s(self, vm: str) -> float:
        last = self.stage.ears.last(vm)
        return last.heard_s if last is not None else 0.0

    def _converge(self, since_s: float) -> list[Violation]:
        """Wait until all nodes are ready and all guests have written after ``since_s``; what is not in time."""
        stage = self.stage
        while missing := self._missing(since_s):
            if stage.ears.failed:
                raise Broken(f"the consoles went silent: {stage.ears.failed}")
            if time.monotonic() - since_s > BACK_WITHIN_S:
                return [Violation(crime=ViolationKind.STUCK, vm=name, what=what) for name, what in missing]
            time.sleep(0.1)
        return []

    def _missing(self, since_s: float) -> list[tuple[str, str]]:
        stage, after_s = self.stage, time.monotonic() - since_s
        found = [
            (vm, f"no new record {after_s:.0f} s after everything was taken back")
            for vm in stage.volumes
            if self._last_s(vm) <= since_s
        ]
        census = stage.census
        ready = {name for name, node in census.alive.items() if node.ready}
        return found + [
            (name, f"not ready {after_s:.0f} s after everything was taken back")
            for name in stage.cluster.state.nodes
            if name not in ready or census.asked_s < since_s
        ]

    # --- what became of each VM

    def _story(self, vm: str, begun_s: float, healed_s: float | None) -> dict[str, Any]:
        """Silence and instances in this round; ``back_s`` for those that were silent when all was healed."""
        acks = self.stage.ears.acks(vm)
        before = [ack for ack in acks if ack.heard_s < begun_s][-1:]
        during = before + [ack for ack in acks if ack.heard_s >= begun_s]
        pauses = [b.heard_s - a.heard_s for a, b in pairwise(during)]
        story: dict[str, Any] = {
            "instances": len({ack.inst for ack in during}),
            "silence_s": round(max(pauses, default=0.0), 2),
            "node": during[-1].node if during else "",
        }
        if healed_s is not None:
            after = [ack.heard_s for ack in during if ack.heard_s > healed_s]
            story["back_s"] = round(after[0] - healed_s, 2) if after else None
        return story

    # --- judgement

    def look(self, done: Round) -> None:
        """Read every disk and judge it; adds to the round."""
        for vm, volume in self.stage.volumes.items():
            acks = self.stage.ears.acks(vm)
            fresh: list[Ack] = acks[self._judged[vm] :]
            try:
                ring = self.stage.disks.ring(volume)
            except Unavailable as error:
                done.violations.append(Violation(crime=ViolationKind.STUCK, vm=vm, what=f"its disk: {error}"))
                continue
            records, damaged = parse(ring)
            done.violations += judge(vm, records, damaged, fresh, self._known[vm])
            done.violations += order(vm, acks)
            done.records += sum(not fresh or record.seq >= fresh[0].seq for record in records)
            done.acknowledged += len(fresh)
            done.unread += len(self._known[vm].unseen)
            self._known[vm].unseen.clear()
            self._judged[vm] = len(acks)

    def evidence(self, done: Round, consoles: Path) -> Path:
        """Keep what a violation needs to be understood: logs, consoles and disks; its folder."""
        folder = Path(tempfile.mkdtemp(prefix=f"metastack-chaos-{done.number}-", dir="/tmp"))
        for name, host in self.stage.cluster.hosts.items():
            _copy(host.agent_log, folder / f"{name}.agent.log")
            _copy(host.folder / "log" / "libvirtd.log", folder / f"{name}.libvirtd.log")
        for member in self.stage.cluster.etcd.members:
            _copy(member.directory / "etcd.log", folder / f"{member.name}.etcd.log")
        for log in (self.stage.cluster.layout.ceph / "log").glob("*.log"):
            _copy(log, folder / log.name)
        _copy(consoles, folder / "consoles.log")
        for vm, volume in self.stage.volumes.items():
            try:
                (folder / f"{vm}.ring").write_bytes(self.stage.disks.ring(volume)[:BYTES])
            except Unavailable as error:
                (folder / f"{vm}.ring.error").write_text(str(error))
        (folder / "seen.txt").write_text(self.seen())
        return folder

    def seen(self) -> str:
        """The last words of everybody."""
        parts = [f"alive in etcd: {self.stage.census.alive}"]
        for name, host in self.stage.cluster.hosts.items():
            parts.append(f"--- {name}\n{proc.tail(host.agent_log, 15)}")
        for vm in self.stage.volumes:
            parts.append(f"--- {vm}: last heard {self.stage.ears.last(vm)}")
        return "\n".join(parts)


def _copy(source: Path, into: Path) -> None:
    if source.exists():
        shutil.copy(source, into)
