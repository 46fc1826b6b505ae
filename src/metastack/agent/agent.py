"""The agent: one loop that looks and acts, fed by watch events, libvirt callbacks and a periodic full look.

Owns: the tasks and the queue between them. Refuses: knowing which adapters it was given.
Rule: every task lives in one TaskGroup; a bug in any of them ends the process loudly, and the next one starts
from what exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from ..core.domains import of_another
from ..core.model import Resources, VmId
from ..core.state.cluster_state import ClusterState
from ..core.state.keys import Keys, Kind, ParsedKey, about_nodes, in_order
from ..ports import (
    Broken,
    Fenced,
    Hypervisor,
    InUse,
    Levelled,
    Network,
    Refused,
    Storage,
    Store,
    Unavailable,
    local_io,
)
from ..secrets.keyring import Keyring
from .cache.informer import Informer
from .cache.node_changes import NodeChanges
from .clock import Clock
from .context import AgentContext
from .fencing.fencer import Fencer
from .fencing.silent_nodes import SilentNodes
from .fencing.storage_silence import StorageSilence
from .reconcile import event_router as route
from .reconcile.boot_slots import BootSlots
from .reconcile.evacuation import Evacuation
from .reconcile.event_router import Key
from .reconcile.in_flight import drained, quiet_in_time
from .reconcile.readiness import PROBES_AT_ONCE, Readiness
from .reconcile.stuck_steps import StuckSteps
from .reconcile.vm_reconciler import VmReconciler
from .reconcile.workqueue import WorkQueue
from .report.addresses import NodeAddresses
from .report.guest_macs import GuestMacs
from .report.health import Health
from .report.machine import Machine
from .report.node_status import NodeStatusReporter
from .session.etcd_history import EtcdHistory
from .session.lease_keeper import LeaseKeeper
from .session.secret_reader import SecretReader, no_keyring
from .session.session import Session
from .session.state_files import StateFiles
from .session.storage_keys import StorageKeys
from .upkeep.host_shutdown import HostShutdown
from .upkeep.maintenance import LeasedEnds
from .upkeep.sweeper import Sweeper, orphans
from .waiting import retry_until_stopped

log = structlog.get_logger()

RETRY_S: Final = 1.0
UNITS: Final = Path("/etc/systemd/system")
SWEEP_EVERY_S: Final = 60.0
DOMAINS_AGAIN_S: Final = 2.0
STORAGE_ANSWER_S: Final = 10.0
"""A storage that needs longer to say whether it shuts this node out is of no use to a VM that starts."""


async def _never() -> bool:
    return False


class Agent:
    """One compute node's daemon, over whatever adapters it is given."""

    def __init__(
        self,
        *,
        name: str,
        keys: Keys,
        store: Store,
        storage: Storage,
        hypervisor: Hypervisor,
        network: Network,
        state_files: StateFiles,
        clock: Clock,
        addresses: tuple[str, ...] = (),
        address: str = "",
        console: str = "",
        capacity: Resources = Resources(),
        machine: Machine = Machine(),
        workers: int = 32,
        boots_at_once: int = 0,
        watchdog_device: str = "",
        boot_id: str = "",
        keyring: Callable[[], Keyring] = no_keyring,
        certificate: Callable[[], str] = str,
        guest_secret: str = "",
        config_changed: Callable[[ClusterState], None] = lambda world: None,
        host_stops: Callable[[], Awaitable[bool]] = _never,
        extend: Callable[[float, str], None] = lambda seconds, why: None,
    ) -> None:
        self._health = Health(
            addresses=addresses, watchdog_device=watchdog_device, units=UNITS, certificate=certificate
        )
        self._queue: WorkQueue[Key] = WorkQueue()
        self._workers, self._config_changed = workers, config_changed
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._disk_since: dict[Key, float] = {}
        self.state_files = state_files
        informer = Informer(store, keys, EtcdHistory(name, keys, state_files), self._changed)
        store = Levelled(store, keys, lambda: informer.world.level)
        session = Session(
            name=name,
            keys=keys,
            store=store,
            storage=storage,
            hypervisor=hypervisor,
            informer=informer,
            state_files=state_files,
            clock=clock,
            addresses=addresses,
            boot_id=boot_id,
            describe=lambda: self._reporter.describe(),
            drained=self._drained,
            changed=self._look_at_everything,
        )
        self.node = AgentContext(
            name=name,
            keys=keys,
            store=store,
            storage=storage,
            hypervisor=hypervisor,
            network=network,
            clock=clock,
            informer=informer,
            session=session,
            addresses=addresses,
            boot_id=boot_id,
        )
        informer.etcd_history.noticed, informer.etcd_history.restarted = (
            self.node.on_etcd_untrusted,
            self.node.on_history_restarted,
        )
        self._boots = BootSlots(lambda: boots_at_once or self.node.world.config.boots_at_once, self._look_at)
        self._reconciler = VmReconciler(self.node, self._boots, self._look_at)
        self._readiness = Readiness(self.node, self._look_at)
        self._secrets = SecretReader(store, keys, keyring, self._health)
        self._storage_keys = StorageKeys(
            storage, hypervisor, session, self._health, self._secrets, guest_secret
        )
        self._evacuation = Evacuation(self.node, self._look_at)
        self._maintenance = LeasedEnds(self.node)
        self.fencer = Fencer(self.node)
        self.node.leave_reason, self.node.guest_ready = self._evacuation.why, self._readiness.ready
        self.node.keys_refused, self.node.suspect = self._storage_keys.refused, self._suspect
        self.silence = StorageSilence(self.node, lambda: self._queue.add(route.BLOCKED))
        self._host_shutdown = HostShutdown(
            self.node, self.silence, self._look_at_everything, host_stops, extend
        )
        self.node.host_stop, self.node.host_stops = self._host_shutdown.fate, self._host_shutdown.announced
        self._silent_others = SilentNodes(self.node, self.silence)
        self._reporter = NodeStatusReporter(
            self.node, self.fencer, self._health, self.silence, state_files,
            address=address, console=console, capacity=capacity, machine=machine,
            boot_id=boot_id,
        )  # fmt: skip
        self._stuck_steps, self._lease_keeper = StuckSteps(name), LeaseKeeper(name, keys, store, boot_id)
        self._sweeper, self._node_changes, self._macs = Sweeper(self.node), NodeChanges(name), GuestMacs(name)
        self._health.removals = self._sweeper.stuck_removals

    # --- life

    def console_trouble(self, why: str) -> None:
        """Why nobody can open a console here; empty: they can."""
        self._health.console_why = why

    def reached(self, where: NodeAddresses) -> None:
        """Where this node is reached: published from now on."""
        self._reporter.reached_at(where.address, where.console)

    async def run(self, stop: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Work until ``stop`` is set, then leave the guests running."""
        node = self.node
        await retry_until_stopped("libvirt's lock", self._take_libvirt, stop)
        await retry_until_stopped("hypervisor", node.hypervisor.open, stop)
        if stop.is_set():
            return
        self._reporter.learn(await node.hypervisor.facts())
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(self._lease_keeper.run())
            await retry_until_stopped("storage", self._open_storage, stop)
            keeping.cancel()
        if stop.is_set():
            return
        await node.network.open(node.network.bridges())
        self._secrets.look()
        await retry_until_stopped("secret", self._storage_keys.begin, stop)
        ready()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(work)
                for work in (
                    node.informer.run(),
                    node.session.run(),
                    self._reporter.run(),
                    self._full_look(),
                    self._domain_events(),
                    self._address_changes(),
                    self._sweep(),
                    self.silence.run(),
                    self._silent_others.run(),
                    *(self._work() for _ in range(self._workers)),
                    *(self._readiness.work() for _ in range(PROBES_AT_ONCE)),
                )
            ]
            await stop.wait()
            gone = await self._host_shutdown.run()
            for task in tasks:
                task.cancel()
        self._queue.close()
        self._readiness.close()
        log.info("agent_stopping", node=node.name)
        await node.session.leave(gone)
        await node.network.close()
        await quiet_in_time("closing the hypervisor", node.hypervisor.close())
        await quiet_in_time("closing the storage", node.storage.close())

    async def _take_libvirt(self) -> None:
        try:
            await self.node.hypervisor.acquire_host(self.node.name)
        except InUse as error:
            # It ends before it touched anything there. One that waited would be there when the other restarts.
            raise Broken(str(error)) from None

    async def _open_storage(self) -> None:
        """Connect; being shut out is no obstacle here: the session finds it and takes the way back."""
        try:
            await self.node.storage.open()
        except Fenced as error:
            log.warning("storage_blocks_node", node=self.node.name, error=str(error))
        await self._health.try_rights(self.node.storage)

    # --- what changed

    def _changed(self, touched: set[ParsedKey]) -> None:
        """The informer has news: queue what they bear on."""
        node, kinds = self.node, {key.kind for key in touched}
        ordered = in_order(touched)
        news = in_order(self._node_changes.news(touched, node.world)) if Kind.NODE_ALIVE in kinds else ordered
        node.follow(ordered)
        self._macs.follow(ordered, node.world)
        if about_nodes(news):
            self.fencer.observe({key.names[0] for key in news if key.kind is Kind.NODE_ALIVE})
            node.session.check()
        if Kind.CLUSTER in kinds:
            self._health.note_config(node.world)
            self._config_changed(node.world)
        if Kind.MAINTENANCE in kinds or Kind.CLUSTER_SHUTDOWN in kinds:
            self._look_at_everything()  # it begins or ends: what was held back may be done now
        for key in route.keys_of(news, node.world, node.name, node.turns, node.disks, self._here):
            self._queue.add(key)
        if (due_s := node.turns.due_s()) is not None:
            self._queue.add_at(route.OVERDUE, due_s)

    def _suspect(self, victim: str, why: str) -> None:
        self.fencer.suspect(victim, why)
        self._queue.add(("node", victim, ""))

    def _look_at(self, vm: VmId) -> None:
        self._queue.add(("vm", vm.project, vm.name))

    def _here(self, vm: VmId) -> bool:
        """Something of that VM is on this node, or remembered of it."""
        return vm in self._reconciler.known or vm in self.node.memory.vms

    def _look_at_everything(self) -> None:
        """This node's session changed: everything may have another answer now."""
        self.fencer.observe()
        for key in route.everything(self.node.world, self.node.name, self._reconciler.known, self.node.turns):
            self._queue.add(key)

    # --- tasks

    async def _work(self) -> None:
        """One worker: the next key, a look, a step, again."""
        while True:
            key = await self._queue.get()
            self._busy += 1
            self._idle.clear()
            again_s = 0.0
            try:
                with local_io(f"working on {' '.join(key).strip()}"):  # what no adapter has a name for
                    again_s = await self._one(key)
                if self._stuck_steps.done(key):
                    await self._tell_refused(key, "")
            except Refused as error:
                mine = key[0] == "vm" and self.node.world.owner(VmId(key[1], key[2])) == self.node.name
                if mine and self._stuck_steps.note(key, error) and await self._tell_refused(key, str(error)):
                    self._stuck_steps.told(key)
                log.debug("refused", key=key, error=str(error))
                again_s = RETRY_S
            except Unavailable as error:
                log.warning("unavailable", key=key, error=str(error), retry_in_s=RETRY_S)
                again_s = RETRY_S
            finally:
                self._busy -= 1
                if not self._busy:
                    self._idle.set()
                self._queue.done(key)
            if again_s > 0:
                self._queue.add_after(key, again_s)

    async def _tell_refused(self, key: Key, why: str) -> bool:
        """Say with a VM's status that a step of it is refused again and again; empty: not any more.

        False when it could not be published. What is remembered is right all the same, for the next status.
        """
        vm = VmId(key[1], key[2])
        self._reconciler.note_refused(vm, why)
        if not self.node.session.ready:
            return False
        try:
            await self._reconciler.publish(vm)
        except (Refused, Unavailable) as error:
            log.info("vm_status_publish_failed", key=key, error=str(error))
            return False
        return True

    async def _one(self, key: Key) -> float:
        await self.node.caught_up()
        match key:
            case ("vm", project, name):
                if self.node.informer.etcd_untrusted or not self.node.session.etcd_recognised:
                    # Safety: an agent that has not listed etcd since it started (which being recognised needs),
                    # or that is a stranger to the etcd that it reached, kills nothing.
                    return RETRY_S
                vm = VmId(project, name)
                try:
                    return await self._reconciler.reconcile(vm)
                except BaseException:
                    self._boots.withdraw(vm)  # whatever it waits for now, it is no boot
                    raise
            case ("node", name, _):
                return await self.fencer.consider(name)
            case ("disk", project, uuid):
                now_s = asyncio.get_running_loop().time()
                since_s = self._disk_since.setdefault(key, now_s)
                again_s = await self._sweeper.disk(project, uuid, now_s - since_s)
                if not again_s:
                    self._disk_since.pop(key, None)
                return again_s
            case ("task", "orphans", _):
                for project, uuid in orphans(self.node.world):
                    self._queue.add(("disk", project, uuid))
                return 0.0
            case ("task", "overdue", _):
                for vm in self.node.turns.overdue():
                    self._queue.add(("vm", vm.project, vm.name))
                if (due_s := self.node.turns.due_s()) is not None:
                    self._queue.add_at(key, due_s)
                return 0.0
            case ("task", "maintenance", _):
                return await self._maintenance.look()
            case ("task", "shutdown", _):
                return await self._host_shutdown.look()
            case ("task", "leave", _):
                return self._evacuation.look()
            case ("task", "domains", _):
                await self._note_soon()
                return 0.0
            case ("task", "blocked", _):
                await self._check_blocked()
                return 0.0
            case ("task", "ttl", _):
                await self.node.session.follow_ttl()
                return 0.0
            case _:
                raise AssertionError(f"no such work: {key}")

    async def _check_blocked(self) -> None:
        """A ready node that finds itself blocked leaves its session and takes the whole way back (CE1)."""
        node = self.node
        if not node.session.ready:
            return
        try:
            async with asyncio.timeout(STORAGE_ANSWER_S):
                out = await node.session.shut_out()
            if not out:
                await node.session.prove_address()
                await node.session.prove_storage()
        except TimeoutError:
            late = Unavailable(f"the storage did not answer within {STORAGE_ANSWER_S:g} s")
            self._health.note_storage_answer(late)
            raise late from None
        except (Unavailable, Refused) as error:
            self._health.note_storage_answer(error)
            raise
        self._health.note_storage_answer(None)
        if node.session.ready and out:
            node.session.lose("the storage blocks this node")

    async def _read_keys(self) -> None:
        """A key that somebody rotated is used before a guest is refused for it."""
        self._secrets.look()
        try:
            async with asyncio.timeout(STORAGE_ANSWER_S):
                await self._storage_keys.look()
        except (TimeoutError, Unavailable, Refused) as error:
            log.warning("keys_reload_failed", node=self.node.name, error=str(error))

    async def _drained(self) -> None:
        """Return when no worker is in the middle of anything."""

        def said() -> None:
            log.warning("drain_slow", node=self.node.name, busy=self._busy)

        await drained(self.node.hypervisor, self._idle, said)

    async def _full_look(self) -> None:
        """The net under events: everything, every now and then."""
        while True:
            await asyncio.sleep(self.node.world.config.full_look_s)
            try:
                with local_io("looking at everything"):
                    await self.node.informer.look_if_due()
                    await self._note_domains()
                    await self._read_keys()
                    await self._check_blocked()
            except (Unavailable, Refused) as error:
                log.info("resync_failed", error=str(error))
                if self._health.silent:
                    self._queue.add_after(route.BLOCKED, RETRY_S)
            self._health.note_state_dir(self.node.informer.etcd_history.try_keep())
            self._look_at_everything()

    async def _note_domains(self) -> None:
        domains = await self.node.hypervisor.domains()
        self._health.note_domains(domains, self.node.name)
        for domain in domains:
            if domain.managed and not of_another(domain, self.node.name):
                vm = VmId(domain.project, domain.name)
                self._reconciler.known.setdefault(vm, set()).add(domain.uuid)
                self._queue.add(("vm", vm.project, vm.name))

    async def _domain_events(self) -> None:
        """libvirt's callbacks, as keys."""
        names: dict[str, VmId] = {}
        await self._note_soon()
        async for event in self.node.hypervisor.events():
            if not event.uuid:
                log.info("hypervisor_reconnected", node=self.node.name)
                await self.node.session.leave_if_astray()
                await self._note_soon()
                # A QEMU that dies just then is told by no event, and may be listed as alive a second longer.
                self._queue.add_after(route.DOMAINS, DOMAINS_AGAIN_S)
                self._look_at_everything()
                continue
            vm = self._name_of(event.uuid) or names.get(event.uuid)
            if vm is None:
                await self._note_soon()
                vm = self._name_of(event.uuid)
            if vm is not None:
                names = {event.uuid: vm} if len(names) > 4096 else {**names, event.uuid: vm}
                self._queue.add(("vm", vm.project, vm.name))

    async def _note_soon(self) -> None:
        try:
            await self._note_domains()
        except (Unavailable, Refused) as error:
            log.info("domain_list_failed", error=str(error))

    def _name_of(self, uuid: str) -> VmId | None:
        for vm, uuids in self._reconciler.known.items():
            if uuid in uuids:
                return vm
        return None

    async def _address_changes(self) -> None:
        """A guest got an address: publish it."""
        async for mac in self.node.network.changes():
            for vm, delay_s in self._macs.news(mac, asyncio.get_running_loop().time()):
                self._queue.add_after(("vm", vm.project, vm.name), delay_s)

    async def _sweep(self) -> None:
        """Remains, trash and old events; orphaned disks come by events too."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self._queue.add(route.ORPHANS)
            for sweep in self._sweeper.sweeps():
                try:
                    with local_io(f"sweeping {sweep.__name__}"):
                        await sweep()
                except (Unavailable, Refused) as error:
                    log.info("sweep_failed", sweep=sweep.__name__, error=str(error))
