"""A simulated machine: guests, marks on its disk, an agent that can be killed, stopped and started.

Owns: what outlives the agent (hypervisor, marks, guests and their writes) and the agent's process.
Refuses: any code of the agent's own: :class:`metastack.agent.agent.Agent` runs here unchanged.
Rule: the agent dies as by SIGKILL: not one of its lines runs afterwards, and what it sent is still on the way.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol, cast

from msgspec.structs import replace

from ....agent.agent import Agent
from ....agent.clock import Clock
from ....agent.session.state_files import StateFiles
from ....core.domains import Domain, DomainState, EndReason, Opener
from ....core.etcd_roles import node_rights
from ....core.model import NodeFacts, Resources
from ....core.state.cluster_state import seen
from ....core.state.keys import Keys
from ....core.state.record_versions import LEVEL
from ....hypervisor.twin.hypervisor import MemoryHypervisor
from ....ports import Broken, Denied, DomainSpec, Fenced, Hypervisor, LocalTrouble, NotFound, Store, Unavailable
from ....store.twin.store import MemoryStore
from .agent_rights import RightsJudge
from .etcd import SimCluster
from .guest_network import GuestNetwork
from .loop import PROCESS, Process, VirtualLoop
from .older_release import older
from .older_store import OlderStore
from .operator import Operator
from .rbd import WATCH_S, RbdPool
from .trace import Trace
from .wire import AnswerJudge, Steps, WireHypervisor, WireStorage, WireStore

BEAT_S: Final = 0.5
"""Each running guest writes to its disk this often."""
RESTART_S: Final = 1.0
"""The service manager starts an agent that died again after this long."""
STORAGE_TIMEOUT_S: Final = 10.0
SHUTDOWN_S: Final = 150.0
"""An agent of a host that shuts down is killed after this."""
PATIENCE_S: Final = 10.0
"""Patience with a libvirt call; shorter than the real adapter's, so that calls outlive it more often."""
EPOCH_S: Final = 1_700_000_000.0
SHARED: Final = "10.9.9.9"
"""The one address of all machines, in a script that says so."""
FULL: Final = "nothing more can be written"
"""A file of that name on a machine's disk, which is why it takes no others."""
FOREIGN: Final = "ffffffff-0000-4000-8000-000000000001"


class HostStateFiles(StateFiles):
    """The marks on a simulated machine's disk: they outlive agents and power cuts."""

    def __init__(self, disk: dict[str, str]) -> None:
        super().__init__(Path("/nowhere"))
        self._disk = disk

    def lock(self) -> None:
        if "lock" in self._disk:
            raise Broken("another agent runs on this host")
        self._disk["lock"] = ""

    def unlock(self) -> None:
        self._disk.pop("lock", None)

    def _write(self, name: str, text: str) -> None:
        if FULL in self._disk:
            raise LocalTrouble(f"writing {name}: No space left on device")
        process = PROCESS.get()
        if process is None or not process.dead:
            self._disk[name] = text

    def _exists(self, name: str) -> bool:
        return name in self._disk

    def _read(self, name: str) -> str:
        return self._disk[name]

    def _remove(self, name: str) -> None:
        process = PROCESS.get()
        if process is None or not process.dead:
            self._disk.pop(name, None)


class _Hypervisor(MemoryHypervisor):
    """Tells of every guest that begins to run, and of every one that is ended by force."""

    runs: Callable[[], None] = staticmethod(lambda: None)
    destroyed: Callable[[str, DomainSpec | None], None] = staticmethod(lambda uuid, spec: None)

    ends: Callable[[str, EndReason], None] = staticmethod(lambda uuid, end: None)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._before: dict[str, Domain] = {}
        """Damaged domains as they were."""

    def _ended(self, uuid: str, end: EndReason) -> None:
        if end is EndReason.DESTROYED:
            self.destroyed(uuid, self.specs.get(uuid))
        self.ends(uuid, end)
        super()._ended(uuid, end)

    def _post(self, uuid: str, what: str) -> None:
        if what in ("started", "resumed"):
            self.runs()
        super()._post(uuid, what)

    def lost_ends(self, uuid: str) -> None:
        self.ends(uuid, EndReason.CRASHED)
        super().lost_ends(uuid)

    def forget(self, uuid: str) -> None:
        """The maker of a domain takes it away."""
        self._forget(uuid)

    def damage(self, uuid: str) -> None:
        self._before[uuid] = self._must(uuid)
        super().damage(uuid)

    def whole(self, domain: Domain) -> Domain:
        """That domain as it is, whatever its metadata says by now."""
        return replace(self._before[domain.uuid], state=domain.state) if domain.damaged else domain

    def guests(self) -> list[Domain]:
        """What runs or could write, each as it is."""
        return [self.whole(domain) for domain in self.active()]


class Observer(Protocol):
    """Told of what machines do: a run, with its judges and the faults that wait for a step."""

    @property
    def answers(self) -> AnswerJudge: ...
    def entered(self, host: SimHost, step: str) -> None: ...
    def guest_runs(self) -> None: ...
    def asked(self, host: SimHost, what: str, about: Any) -> None: ...
    def ended(self, host: SimHost, uuid: str, spec: DomainSpec | None) -> None: ...


class Surroundings(Protocol):
    """What a machine needs of the lab that it is in."""

    seed: int
    storage: str
    address: str
    loop: VirtualLoop
    keys: Keys
    cluster: SimCluster
    pool: RbdPool
    trace: Trace
    operator: Operator
    graveyard: list[Process]
    observer: Observer

    def violation(self, kind: str, what: str) -> None: ...
    def later(self, delay_s: float, call: Callable[[], object]) -> asyncio.TimerHandle: ...


class SimHost:
    """One machine of the lab."""

    def __init__(self, lab: Surroundings, name: str, number: int) -> None:
        self.lab, self.name = lab, name
        self.node = name
        """Name in its agent's settings. Of two machines it may be the same."""
        self.boots = 1
        """How often it was switched on."""
        self.copied_address = ""
        """Storage address in its agent's settings, when that is not its own; empty: it is."""
        self.address = f"10.0.0.{number}"
        """Its own. What the storage sees may be another."""
        self.understands = LEVEL
        """The record level of the release that its agent is of."""
        self.configured = ""
        """The address in its agent's settings, as that agent began with them."""
        self.random = Random(f"{lab.seed}/{name}")
        self.powered = True
        self.shuts_down = False
        """It shuts down in order: its service manager says so to the agent that it stops."""
        self.skew_s = 0.0
        self.disk: dict[str, str] = {"node-uuid": f"identity-of-{name}"}
        self.hypervisor = _Hypervisor(
            uuid=f"00000000-0000-4000-8000-{number:012d}",
            capacity=Resources(cpus=64, memory_mib=262_144),
            call_s=0.002,
            boot_s=0.1,
            graceful_s=1.0,
            locks=lab.pool.locks if lab.storage == "file" else None,
        )
        self.hypervisor.destroyed = lambda uuid, spec: lab.observer.ended(self, uuid, spec)
        self.hypervisor.ends = self.ends
        self.hypervisor.runs = lambda: lab.observer.guest_runs()
        self.hypervisor.disk_opens = self._disk_opens
        self.hypervisor.patience_s = PATIENCE_S
        self.hypervisor.add_foreign(FOREIGN, "somebody-elses")
        self.files: RbdPool | None = None
        """Where its agent keeps disks when its settings say files, whatever the others have."""
        self.daemon = self.hypervisor
        """The libvirt that its agent is at. Not its own, if somebody set it so."""
        self.misplaced = False
        """Its agent may end by itself: somebody set it wrongly."""
        self.process: Process | None = None
        self.agent: Agent | None = None
        self.store: MemoryStore | None = None
        self.steps: Steps | None = None
        self.dies_in = ""
        """Its agents die in that step, each of them; empty: in none."""
        self.started_s = 0.0
        """When the agent of now was started."""
        self.lost_events = False
        """A watch event was lost: the agent's view is wrong until it lists again."""
        self.slow_etcd = False
        """Every message between this node and etcd takes long."""
        self.wire: WireStore | None = None
        self._storage: WireStorage | None = None
        self._stop = asyncio.Event()
        self._stalled: dict[str, tuple[int, str]] = {}
        self.heard_s = 0.0
        """When the storage last heard of its guests."""
        self._opened: dict[str, tuple[str, str]] = {}
        """Guest to its client of the storage and the disk that it opened last."""
        self._lives = itertools.count(1)

    # --- how the storage sees it

    @property
    def seen(self) -> str:
        """Its address, as the storage sees it."""
        return SHARED if self.lab.address else self.address

    @property
    def guest_user(self) -> str:
        """User that its guests alone have."""
        return f"{self.name}-guests" if self.lab.address == "shared guests" else ""

    def moves(self, address: str) -> None:
        """Whatever begins here from now on is seen under another address."""
        self.address = address
        if self._storage is not None and not self.lab.address:
            self._storage.moves(address)

    def client_of(self, uuid: str) -> str:
        """A guest's client."""
        return self._opened.get(uuid, (f"{self.seen}:0/0", ""))[0]

    def shut_out(self) -> bool:
        """Nothing new of it reaches a disk."""
        pool = self.lab.pool
        return self.seen in pool.blocked or self.guest_user in pool.no_rights

    def openers(self, volume: str) -> set[str]:
        """Clients of its guests that have a disk open, or had it when the power went."""
        return {client for client, opened in self._opened.values() if opened == volume}

    def holds(self, volume: str) -> list[Opener]:
        """Its living guests that have a disk open. One that is cut off for long watches no more."""
        pool, now_s = self.lab.pool, self.lab.loop.time()
        if not self.powered:
            return []
        return [
            Opener(
                client=client,
                address=self.seen,
                watching=now_s - self.heard_s < WATCH_S,
                locking=client not in pool.broken,
                shut_out=pool.refuses(client),
            )
            for client in (self.client_of(d.uuid) for d in self.hypervisor.guests() if d.volume_uuid == volume)
        ]

    def ends(self, uuid: str, end: EndReason) -> None:
        """A guest's QEMU ends. One that crashes, or hangs over a storage out of reach, closes nothing."""
        client, volume = self._opened.get(uuid, ("", ""))
        hung = self.address in self.lab.pool.cut or self.lab.pool.down or self.lab.pool.refuses(client)
        if client and (end is EndReason.CRASHED or (end is EndReason.DESTROYED and hung)):
            self.lab.pool.dies(client, self.seen, volume)

    def is_fenced(self, facts: NodeFacts | None) -> bool:
        """Everything that it declared is blocked, and so are the guests that run there."""
        pool = self.lab.pool
        if facts is None:
            return False
        if not self.lab.address:
            return bool(facts.storage_addresses) and set(facts.storage_addresses) <= pool.blocked
        guests = {self.client_of(domain.uuid) for domain in self.hypervisor.guests() if domain.managed}
        known = bool(facts.storage_clients) and {*facts.storage_clients, *guests} <= pool.blocked
        return known and (not facts.storage_guest_user or facts.storage_guest_user in pool.no_rights)

    def fenced_by(self) -> list[str]:
        """What a fence of it blocks: its address, or everything of it that is known."""
        if not self.lab.address:
            return [self.address]
        entry = self.lab.cluster.get(self.lab.keys.node_facts(self.node))
        facts = seen(NodeFacts, entry).record if entry is not None else None
        guests = sorted(client for client, _ in self._opened.values())
        user = [f"client.{self.guest_user}"] if self.guest_user else []
        return [*(facts.storage_clients if facts is not None else ()), *guests, *user]

    # --- the agent

    def start(self) -> None:
        """Start the agent, if the machine is on and none runs."""
        if not self.powered or self.process is not None:
            return
        lab, life = self.lab, next(self._lives)
        self.process = process = Process(f"{self.name}#{life}")
        self.configured = self.copied_address or self.seen
        self.steps = steps = Steps(process, self._entered)
        self.store = MemoryStore(lab.cluster, latency_s=self._latency_s)
        self.wire = WireStore(self.store, steps, lab.observer.answers)
        self._storage = WireStorage(
            self.files or lab.pool,
            self.seen,
            link=self.address,
            guest_user=self.guest_user,
            remote_fence=lab.storage != "file" and self.files is None,
            call_s=0.0005,
            timeout_s=STORAGE_TIMEOUT_S,
            steps=steps,
        )
        ids = itertools.count()
        state_files = HostStateFiles(self.disk)
        state_files.lock()
        self.lost_events, self.started_s = False, lab.loop.time()
        self.agent = Agent(
            name=self.node,
            keys=lab.keys,
            store=self._within_rights(self._store_of(self.wire)),
            storage=self._storage,
            hypervisor=cast(Hypervisor, WireHypervisor(self.daemon, steps, self._request)),
            network=GuestNetwork(lab.operator, self.hypervisor),
            state_files=state_files,
            clock=Clock(
                lambda: EPOCH_S + lab.loop.time() + self.skew_s,
                lambda: f"{self.name}x{life:03d}{next(ids):06d}ffffffff",
            ),
            addresses=(self.configured,) if lab.storage != "file" else (),
            address=self.address,
            boot_id=f"{self.name}-boot-{self.boots}",
            host_stops=self._host_stops,
        )
        self._stop = asyncio.Event()
        lab.loop.start_process(process, self._main(self.agent, process))

    def _within_rights(self, store: Store) -> Store:
        """Every write of its agent is one that etcd lets a node do."""
        return RightsJudge(store, node_rights(self.lab.keys, self.node), self.lab.violation, self.node)

    def _store_of(self, wire: Store) -> Store:
        """What its agent is given; one of an older release, that release's codec."""
        if self.understands >= LEVEL:
            return wire

        def refused(why: str) -> None:
            self.lab.violation("refused", f"{self.name}: {why}")

        return OlderStore(wire, older(self.understands), self.lab.keys, refused)

    def _entered(self, step: str) -> None:
        if step == self.dies_in:
            self.lab.later(0.0, self._dies)
        self.lab.observer.entered(self, step)

    def _dies(self) -> None:
        if self.crash():
            self.lab.later(RESTART_S, self.start)

    def _request(self, what: str, about: Any) -> None:
        if self.process is None or self.process.dead:
            return
        self.lab.observer.asked(self, what, about)

    async def _main(self, agent: Agent, process: Process) -> None:
        why = ""
        try:
            await agent.run(self._stop)
        except Exception as error:
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            why = f"{type(error).__name__}: {error}"
        if process.dead:
            return
        if why and self.misplaced:
            self.lab.trace.add(self.name, f"ended: {why}")
            self.lab.later(RESTART_S, self.start)
        elif why:
            self.lab.violation("agent_died", f"{self.name}: {why}")
            self.lab.later(RESTART_S, self.start)
        self._ended()
        if self.shuts_down:
            self.power_cut()

    async def _host_stops(self) -> bool:
        return self.shuts_down

    def _ended(self) -> None:
        if self.process is not None:
            self.lab.graveyard.append(self.process)
        self.disk.pop("lock", None)
        self.process = self.agent = self.store = self.steps = self.wire = None
        self.hypervisor.client_dies()

    def crash(self) -> bool:
        """SIGKILL."""
        if self.process is None or self._storage is None:
            return False
        self.lab.loop.kill(self.process)
        self._storage.abandon()
        self._ended()
        if self.shuts_down:
            self.lab.later(RESTART_S, self.power_cut)  # nobody starts it again: the host goes down
        return True

    def stop(self) -> bool:
        """SIGTERM: the agent leaves gracefully."""
        if self.process is None:
            return False
        self._stop.set()
        return True

    def shut_down(self) -> bool:
        """The service manager stops the agent, kills it when that takes too long, and ends what is left."""
        if not self.powered:
            return False
        self.shuts_down = True
        process = self.process
        if process is None:
            return self.power_cut()

        def late() -> None:
            if self.process is process:
                self.power_cut()

        self.lab.later(SHUTDOWN_S, late)
        return self.stop()

    def power_cut(self) -> bool:
        if not self.powered:
            return False
        self.crash()
        self.powered = False
        self._stalled.clear()
        for domain in self.hypervisor.guests():
            self.ends(domain.uuid, EndReason.CRASHED)
        self.hypervisor.power_cut()
        return True

    def power_on(self) -> None:
        if not self.powered:
            self.powered, self.shuts_down, self.boots = True, False, self.boots + 1
            self.hypervisor.daemon_returns()
            self.hypervisor.add_foreign(FOREIGN, "somebody-elses")
            self.start()

    def _latency_s(self) -> float:
        return self.random.uniform(0.1, 1.2) if self.slow_etcd else self.random.uniform(0.0002, 0.002)

    # --- the guests

    async def _disk_opens(self, spec: DomainSpec) -> None:
        pool = self.lab.pool
        while self.address in pool.cut:
            await pool.cut[self.address].wait()
        if pool.down:
            raise Unavailable("the storage does not answer")
        if self.seen in pool.blocked:
            raise Fenced(f"boot {spec.name}: {self.seen} is shut out")
        if self.guest_user in pool.no_rights:
            raise Denied(f"boot {spec.name}: client.{self.guest_user} has no rights")
        if spec.volume_uuid not in pool.disks:
            raise NotFound(f"boot {spec.name}: disk {spec.volume_uuid} does not exist")
        self._opened[spec.uuid] = (pool.new_client(self.seen), spec.volume_uuid)

    def beat(self) -> None:
        """Every running guest writes."""
        if not self.powered:
            return
        pool = self.lab.pool
        cut = self.address in pool.cut or pool.down
        if not cut:
            self.heard_s = self.lab.loop.time()
        for domain in self.hypervisor.guests():
            if not domain.managed or domain.state not in (DomainState.RUNNING, DomainState.SHUTTING_DOWN):
                continue
            if domain.uuid in self.hypervisor.hung:
                continue
            if cut:
                self._stalled.setdefault(domain.uuid, (domain.epoch, domain.volume_uuid))
            elif not pool.write(
                self.client_of(domain.uuid), self.name, domain.volume_uuid, domain.uuid, domain.epoch
            ):
                self.hypervisor.io_error(domain.uuid)

    def storage_returns(self) -> None:
        """What was stalled lands now, or is refused."""
        stalled, self._stalled = self._stalled, {}
        pool = self.lab.pool
        for domain in self.hypervisor.guests():
            found = stalled.get(domain.uuid)
            if found is None or found[0] != domain.epoch:
                continue
            landed = pool.write(self.client_of(domain.uuid), self.name, found[1], domain.uuid, found[0])
            if not landed and domain.state is DomainState.RUNNING:
                self.hypervisor.io_error(domain.uuid)

    def doing(self) -> list[str]:
        """The steps that its agent is in."""
        return list(self.steps.now) if self.steps is not None else []
