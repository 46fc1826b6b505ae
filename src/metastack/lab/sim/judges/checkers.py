"""The judges, apart from the code they judge: each watches the world itself, never what an agent says of it.

Owns: what counts as a violation. Every revision of etcd, every write to a disk and every removal of one passes
here at the moment it happens; what every machine could do is looked at on every heartbeat.
Refuses: raising. A violation is collected in the lab (an assert in somebody's task would be lost).

* two writers: an older epoch never writes after a newer one, one epoch writes from one machine, and no two
  running guests share a disk that neither is shut out of;
* one claim: it moves only from a session that a finished fence reached, and is released without a domain;
* growing: sessions, epochs and fences only grow;
* destroyed: no disk of a VM that has a spec is removed, no guest is ended where it is wanted, nor any foreign;
* the brake: no fence is opened while more than the configured share of the nodes is gone, and it is reported;
* not ready: no session claims or starts anything before it was ready (:mod:`.hypervisor_judge`);
* the view: what an agent has folded is what etcd's history says at that revision;
* etcd's answers are linearizable (:mod:`.linearizability_judge`);
* converged (:mod:`.converged`): after healing, all is as specified within the bound, and stays so.
"""

from __future__ import annotations

from typing import Any, Final

from ....core.domains import DomainState
from ....core.model import (
    Claim,
    Fence,
    NodeAlive,
    NodeFacts,
    Record,
    StorageIdentity,
    VmId,
    VmSpec,
    VmStatus,
    token,
)
from ....core.state.cluster_state import RECORD_TYPES, ClusterState, seen
from ....core.state.keys import Kind, ParsedKey
from ....core.transaction import KeyEvent
from ..engine.etcd import RESTORED
from ..engine.host import FOREIGN, SimHost
from ..engine.lab import Lab
from ..engine.rbd import Write
from . import converged
from .hypervisor_judge import HypervisorJudge
from .placement_judge import PlacementJudge

SETTLED_S: Final = 3.0
"""What happened so long ago is known to every agent that hears."""


class Checkers:
    """All judges of one run."""

    def __init__(self, lab: Lab, placement_judge: PlacementJudge) -> None:
        self._lab = lab
        self._claims: dict[VmId, Claim] = {}
        self._epochs: dict[VmId, int] = {}
        self._sessions: dict[str, int] = {}
        """The last session of each node, living or not."""
        self._alive: set[str] = set()
        self._gone_s: dict[str, float] = {}
        self._fences: dict[str, Fence] = {}
        self._fenced_s: dict[str, float] = {}
        self._facts: dict[str, NodeFacts] = {}
        self._suspects: dict[str, str] = {}
        """Victims whose intent was opened when the brake should have held: what to say if it is carried out."""
        self._specs: dict[VmId, VmSpec] = {}
        self._astray: dict[str, float] = {}
        """Nodes that saw etcd before it was restored, and when it was: what they have folded is of then."""
        self._last_write: dict[str, Write] = {}
        self._said: set[tuple[str, ...]] = set()
        self._views: dict[int, tuple[int, dict[ParsedKey, int]]] = {}
        self.hypervisor_judge = HypervisorJudge(lab, placement_judge, self._claims, self._specs, self._fences)
        lab.cluster.listeners.append(self.committed)
        lab.pool.wrote = self.wrote
        lab.pool.removed, lab.pool.created = self.removed, self.created
        self._made: set[str] = set()
        """Disks that were made, and did not go for good."""

    def _once(self, kind: str, what: str, *key: str) -> None:
        if (kind, *key) not in self._said:
            self._said.add((kind, *key))
            self._lab.violation(kind, what)

    # --- the disks

    def wrote(self, write: Write) -> None:
        """A write landed."""
        last = self._last_write.get(write.volume)
        if last is None or write.epoch > last.epoch:
            self._lab.trace.add(write.host, f"first write of epoch {write.epoch} to {write.volume}")
        elif write.epoch < last.epoch or write.host != last.host:
            self._once(
                "two_writers",
                f"{write.host} wrote to {write.volume} in epoch {write.epoch} "
                f"after {last.host} wrote in epoch {last.epoch}",
                write.volume,
                write.host,
                str(write.epoch),
            )
            return
        self._last_write[write.volume] = write

    def who_can_write(self) -> None:
        """Two running guests on one disk, neither shut out: whatever writes next, it is too late already."""
        able: dict[str, list[str]] = {}
        for host in self._lab.hosts.values():
            if host.shut_out():
                self.hypervisor_judge.blocked_s[host.name] = self._lab.loop.time()
            if host.powered:
                for domain in host.hypervisor.guests():
                    out = self._lab.pool.refuses(host.client_of(domain.uuid))
                    if out:
                        self.hypervisor_judge.blocked_s[host.name] = self._lab.loop.time()
                    if domain.managed and domain.state is DomainState.RUNNING and not out:
                        able.setdefault(domain.volume_uuid, []).append(f"{host.name}/{domain.epoch}")
        for volume, where in able.items():
            if len(where) > 1:
                self._once("two_writers", f"{volume} can be written from {' and '.join(where)}", volume, *where)

    def created(self, volume: str) -> None:
        """A disk was made. Once: another one of its name would hide that the first is lost."""
        if volume in self._made - self._lab.forgotten:
            self._lab.violation("destroyed", f"the disk {volume} was made a second time")
        self._made.add(volume)

    def removed(self, volume: str) -> None:
        """A disk went to the trash, or for good."""
        if volume in self._lab.pool.purged:
            self._made.discard(volume)
        for spec in self._specs.values():
            if spec.volume_uuid == volume and volume not in self._lab.forgotten:
                self._lab.violation("destroyed", f"the disk {volume} of {spec.id} was removed, its spec exists")

    # --- etcd

    def committed(self, by: str, revision: int, events: tuple[KeyEvent, ...]) -> None:
        """One revision; or all that there is after a restore, which nobody is to blame for."""
        if by == RESTORED:
            self._restored(events)
            return
        names = []
        for event in events:
            key = self._lab.keys.parse(event.key)
            if key is None or key.kind is Kind.EVENT:
                continue
            names.append(f"{'' if event.entry else '-'}{key.kind.value}/{'/'.join(key.names)}")
            if key.kind in (Kind.CLAIM, Kind.VM_SPEC, Kind.HALT):
                self.hypervisor_judge.changed_s[key.vm] = self._lab.loop.time()
            match key.kind:
                case Kind.CLAIM:
                    self._claim(by, key.vm, event)
                case Kind.VM_STATUS if event.entry is not None:
                    status = seen(VmStatus, event.entry).record
                    sessions = self._sessions if status is not None and status.node in self._alive else {}
                    if status is not None and sessions.get(status.node) != status.session:
                        self._lab.violation(
                            "one_claim", f"{key.vm}: {by} told of it by session {status.session}, which is over"
                        )
                case Kind.NODE_ALIVE:
                    self._node(by, key.names[0], event)
                case Kind.FENCE if event.entry is not None:
                    record = seen(Fence, event.entry).record
                    if record is not None:
                        self._fence(by, key.names[0], record)
                case Kind.NODE_FACTS if event.entry is not None:
                    facts = seen(NodeFacts, event.entry).record
                    if facts is not None:
                        self._facts[key.names[0]] = facts
                case Kind.VM_SPEC:
                    spec = seen(VmSpec, event.entry).record if event.entry is not None else None
                    if spec is not None:
                        self._specs[key.vm] = spec
                    elif event.entry is None:
                        self._specs.pop(key.vm, None)
                case Kind.VOLUME if event.entry is None:
                    for spec in self._specs.values():
                        mine = (spec.project, spec.volume_uuid) == key.names
                        if mine and spec.volume_uuid not in self._lab.forgotten:
                            self._lab.violation("destroyed", f"the record of {spec.id}'s disk was removed")
                case _:
                    pass
        if by != "announce" or len(names) > 1:
            self._lab.trace.add("etcd", f"{revision} {by} {' '.join(names)}")

    def _restored(self, events: tuple[KeyEvent, ...]) -> None:
        """Begin again with what a restored etcd says. What was written to the disks remains."""
        for table in (self._claims, self._fences, self._facts, self._specs, self._views, self._sessions):
            table.clear()
        self._alive.clear()
        self._astray = dict.fromkeys(self._lab.hosts, self._lab.loop.time())
        for key, event in ((self._lab.keys.parse(event.key), event) for event in events):
            if key is None or event.entry is None:
                continue
            record = seen(RECORD_TYPES.get(key.kind, Record), event.entry).record
            match record:
                case Claim():
                    self._claims[key.vm], self._epochs[key.vm] = record, record.epoch
                case Fence():
                    self._fences[key.names[0]] = record
                case NodeFacts():
                    self._facts[key.names[0]] = record
                case VmSpec():
                    self._specs[key.vm] = record
                case NodeAlive():
                    self._alive.add(key.names[0])
                    if record.ready:
                        self.hypervisor_judge.ready.add(token(record.generation, event.entry.create_revision))
                    self._sessions[key.names[0]] = token(record.generation, event.entry.create_revision)

    def _claim(self, by: str, vm: VmId, event: KeyEvent) -> None:
        old = self._claims.get(vm)
        if event.entry is None:
            self._claims.pop(vm, None)
            if old is not None and by != "operator":
                self._released(vm, old)
            return
        new = seen(Claim, event.entry).record
        if new is None:
            return  # a scenario garbled it: nobody may act on it
        self._claims[vm] = new
        last = self._epochs.get(vm, 0)
        kept = old is not None and old.node == new.node and old.epoch == new.epoch
        if new.epoch < last or (new.epoch == last and not kept):
            self._lab.violation("growing", f"{vm}: {by} put epoch {new.epoch} after {last}")
        self._epochs[vm] = max(last, new.epoch)
        if new.node not in self._alive or self._sessions.get(new.node) != new.session:
            self._lab.violation(
                "one_claim", f"{vm}: {by} by session {new.session} of {new.node}, which is over"
            )
        if by in ("claim", "takeover") and new.session not in self.hypervisor_judge.ready:
            self._lab.violation("not_ready", f"{vm}: {by} by session {new.session}, which was never ready")
        if old is None:
            return
        if not kept and not self._reached(old):
            self._lab.violation(
                "one_claim",
                f"{vm}: {by} moved it from session {old.session} of {old.node}, which no fence has reached",
            )
        fenced = self._fences.get(old.node, Fence()).through >= old.session
        if kept and old.session != new.session and fenced:
            self._lab.violation("one_claim", f"{vm}: {by} adopted from session {old.session}, which is fenced")
        if new.session < old.session and old.node == new.node:
            self._lab.violation("growing", f"{vm}: {by} put session {new.session} after {old.session}")

    def _reached(self, old: Claim) -> bool:
        """A fence has reached that claim's session, made in this cluster's storage; or its node came back."""
        fence = self._fences.get(old.node, Fence())
        back = self._sessions.get(old.node, 0) > fence.through
        return fence.through >= old.session and (back or self._counts(fence))

    def _counts(self, fence: Fence) -> bool:
        made = fence.receipt.storage if fence.receipt is not None else None
        entry = self._lab.cluster.get(self._lab.keys.storage())
        agreed = seen(StorageIdentity, entry).record if entry is not None else None
        return made is None or made == (agreed.place if agreed is not None else self._lab.pool.place)

    def _released(self, vm: VmId, old: Claim) -> None:
        host, itself = self._lab.hosts[old.node], (old.uuid, vm.project, vm.name)
        if any((domain.uuid, domain.project, domain.name) == itself for domain in host.hypervisor.active()):
            self._lab.violation("one_claim", f"{vm} was released by {old.node} while its guest was there")

    def _node(self, by: str, node: str, event: KeyEvent) -> None:
        if event.entry is None:
            self._alive.discard(node)
            self._gone_s[node] = self._lab.loop.time()
            return
        record = seen(NodeAlive, event.entry).record
        session = token(record.generation if record is not None else 0, event.entry.create_revision)
        if event.entry.version == 1:
            if by != "register":
                self._lab.violation("growing", f"{node}: session {session} was begun by {by}")
            if session <= self._sessions.get(node, 0):
                self._lab.violation("growing", f"{node}: session {session} after {self._sessions[node]}")
            if session <= self._fences.get(node, Fence()).through:
                self._lab.violation("growing", f"{node}: session {session} begins fenced")
        self._sessions[node] = session
        if (record := seen(NodeAlive, event.entry).record) is not None and record.ready:
            self.hypervisor_judge.ready.add(session)
        self._alive.add(node)
        self._gone_s.pop(node, None)

    def _fence(self, by: str, node: str, record: Fence) -> None:
        old = self._fences.get(node, Fence())
        self._fences[node] = record
        if record.through > old.through:
            self._fenced_s[node] = self._lab.loop.time()
        if record.through < old.through:
            self._lab.violation("growing", f"{node}: fenced through {record.through} after {old.through}")
        counts = self._lab.storage != "file" and by != "operator" and self._counts(record)
        if record.through > old.through and counts:
            if not self._lab.hosts[node].is_fenced(self._facts.get(node)):
                self._lab.violation("fence", f"{node}: done was written while it is not blocked")
            if node in self._alive and record.through >= self._sessions[node]:
                self._lab.violation("fence", f"{node}: its living session {self._sessions[node]} is fenced")
        # An intent that was on its way while the brake engaged is withdrawn; who takes it over need not.
        suspect = self._suspects.pop(node, "")
        if by == "intent":
            self._brake(node, record.intent_by)
        elif by == "done" and suspect:
            self._lab.violation("brake", suspect)

    def _brake(self, victim: str, fencer: str) -> None:
        agent = self._lab.hosts[fencer].agent
        if agent is None:
            return  # it died a moment ago: what it knew is gone with it
        world = agent.node.world
        config = world.config
        now_s = self._lab.loop.time()
        joined = self._counted(self._lab.hosts[fencer])
        gone = [n for n in joined if world.alive(n) is None and n in self._gone_s]
        recent = [n for n in gone if now_s - self._gone_s[n] > SETTLED_S]
        if not recent or len(joined) < 2:
            return
        at = sorted(self._gone_s[n] for n in recent)
        together = max(
            sum(1 for t in at[i:] if t - at[i] <= config.brake_window_s - 15) for i in range(len(at))
        )
        if together * 100 > config.brake_percent * len(joined):
            self._suspects[victim] = f"{fencer} opened a fence of {victim} with {together} of {joined} gone"

    def _counted(self, host: SimHost) -> list[str]:
        """Nodes that the brake counts, by what its agent has heard: joined, not cordoned, not gone since long
        before it started."""
        assert host.agent is not None
        world = host.agent.node.world
        return [
            node
            for node in world.nodes()
            if world.facts(node) is not None
            and not _cordoned(world, node)
            and not (
                world.alive(node) is None
                and self._fenced_s.get(node, host.started_s) < host.started_s
                and self._lab.loop.time() - host.started_s > world.config.brake_window_s
            )
        ]

    # --- the agents

    def event(self, node: str, name: str, fields: dict[str, Any]) -> None:
        """An agent logged something that only a broken one would."""
        if name == "generation_raised":
            self._astray.pop(node, None)
        if name in ("agent_broken", "agent_crashed"):
            self._lab.violation("agent_died", f"{node}: {fields.get('error')}")

    def look(self, *, everybody: bool = False) -> None:
        """Compare every agent's view with the history, and whether it says that the brake holds."""
        for host in self._lab.hosts.values():
            if host.agent is None or not host.agent.node.informer.listed.is_set():
                continue
            astray = host.name in self._astray and host.started_s < self._astray[host.name]
            if (
                (everybody or not host.lost_events)
                and not astray
                and not host.agent.node.informer.etcd_history.why
            ):
                self._view(host)
            self._brake_said(host)

    def _view(self, host: SimHost) -> None:
        assert host.agent is not None
        world, past = host.agent.node.world, self._lab.cluster.past
        at, table = self._views.pop(id(world), (0, {}))
        while at < len(past) and past[at][0] <= world.revision:
            for event in past[at][1]:
                key = self._lab.keys.parse(event.key)
                if key is None or key.kind not in RECORD_TYPES:
                    continue
                if event.entry is None:
                    table.pop(key, None)
                else:
                    table[key] = event.entry.mod_revision
            at += 1
        self._views[id(world)] = (at, table)
        there = world.revisions()
        if there != table:
            differs = sorted(
                f"{key.kind.value}/{'/'.join(key.names)}: has {there.get(key)}, is {table.get(key)}"
                for key in there.keys() | table.keys()
                if there.get(key) != table.get(key)
            )
            self._once("view", f"{host.name} at {world.revision}: {'; '.join(differs[:3])}", host.name)

    def _brake_said(self, host: SimHost) -> None:
        agent = host.agent
        if agent is None or not agent.node.session.ready or host.process is None or host.process.frozen:
            return
        world, now_s = agent.node.world, self._lab.loop.time()
        joined = self._counted(host)
        gone = [n for n in joined if world.alive(n) is None and now_s - self._gone_s.get(n, now_s) > SETTLED_S]
        at = [self._gone_s[n] for n in gone]
        if len(gone) * 100 <= world.config.brake_percent * len(joined) or len(joined) < 2:
            return
        if max(at) - min(at) <= world.config.brake_window_s - 15 and not agent.fencer.braked:
            self._once("brake", f"{host.name}: {gone} of {joined} are gone and it does not say so", host.name)

    # --- the end

    def wrong(self) -> list[str]:
        """What is not as specified right now."""
        return converged.wrong(self._lab)

    def at_the_end(self, well: bool) -> None:
        """The last look."""
        self.who_can_write()
        if well:
            self.look(everybody=True)
        for host in self._lab.hosts.values():
            if not any(domain.uuid == FOREIGN for domain in host.hypervisor.active()):
                self._lab.violation("destroyed", f"{host.name}: the domain of somebody else is gone")
        for write in self._last_write.values():
            wanted = any(spec.volume_uuid == write.volume for spec in self._specs.values())
            if wanted and write.volume not in {*self._lab.pool.disks, *self._lab.forgotten}:
                self._lab.violation("destroyed", f"the disk {write.volume} of a VM that has a spec is gone")


def _cordoned(world: ClusterState, node: str) -> bool:
    spec = world.node_spec(node)
    return spec is not None and spec.record is not None and spec.record.cordoned
