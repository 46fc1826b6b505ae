"""The session: a lease, a registration, and the way back after either was lost.

Owns: when this node has a session, and when that session is ready.
Refuses: touching VMs that no fence reached; losing etcd costs no guest anything.
Rule (docs/internals/design.md): drain, barrier, kill what is fenced, register, declare, unblock, ready. One
way; a session that finds itself blocked after it was ready ends, and the next one takes the whole way again
(CE1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import structlog

from ...core.domains import Domain, DomainState, of_another
from ...core.model import Event, Fence, NodeAlive, token
from ...core.protocol import claims
from ...core.protocol.fences import under_way
from ...core.protocol.guards import OwnSession
from ...core.state.cluster_state import Seen, seen
from ...core.state.keys import Keys
from ...core.transaction import Committed, Lease
from ...ports import Denied, Hypervisor, LocalTrouble, Refused, Storage, Store, Unavailable
from ..cache.informer import Informer
from ..clock import Clock
from ..reconcile.in_flight import quiet_in_time, starts_ended
from ..waiting import is_set_within
from .config_retry import ConfigRetry
from .distrust import DistrustReporter
from .foreign_guests import refuse_occupied
from .hold_file import HoldFile
from .identity import Misconfigured, believed_generation, refuse_generation, refuse_namesake, refuse_shared
from .lease import LeaseRenewal
from .name_hold import AWAY_S, NameHold
from .other_boot import NameTaken, OtherBoot
from .stale_domains import kill_lost, refuse_damaged
from .state_files import StateFiles
from .storage_clients import StorageClients
from .storage_ownership import StorageOwnership

log = structlog.get_logger()

AWAY_TTL_S = 60
"""Life of the lease that a gracefully stopped agent leaves behind: the time that an upgrade may take."""

LEAVE_S = 5.0
"""For so long a returning node waits to have the clients of killed guests shut out by themselves."""

LISTED_S = 60.0
"""So long an agent that begins waits for its first list of etcd, until it says so and waits again."""

QUICK_UNBLOCK_S = 2.0
"""An unblock that is answered within this was sent once: Ceph's clients leave a silent monitor after 3 s."""

PENDING_UNBLOCK_S = 120.0
"""How long an unblock of a dead agent may still be on its way to the monitors (CE7's one timing assumption).

Measured (tests/integration/safety): one command in twenty is carried out although its client died meanwhile,
0.03 s after it arrives; and the kernel goes on sending for a dead process for 107 s when nothing answers."""


class Session:
    """This node's session; ``number`` is 0 while there is none."""

    def __init__(
        self,
        *,
        name: str,
        keys: Keys,
        store: Store,
        storage: Storage,
        hypervisor: Hypervisor,
        informer: Informer,
        state_files: StateFiles,
        clock: Clock,
        addresses: tuple[str, ...],
        boot_id: str = "",
        describe: Callable[[], NodeAlive],
        drained: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self.number = 0
        self.ready = False
        self.fenced_through = 0
        """This node's sessions up to this one are shut out, as read for the registration, whose guard proves
        it.

        Safety: from there and not from the informer, which may have lost the fence's event: claims of a fenced
        session would be adopted. While this node is alive no intent on it can open, so it holds for the
        session.
        """
        self.etcd_recognised = False
        """This node has reached an etcd that knows it, or never had to, and that it believed then."""
        self.generation, self.since, self.message = 0, "", "starting"
        self._keys, self._store, self._storage, self._hypervisor = keys, store, storage, hypervisor
        self._informer, self._state_files, self._clock = informer, state_files, clock
        self._addresses = addresses
        self._describe, self._drained, self._changed = describe, drained, changed
        self._storage_clients = StorageClients(
            name, keys, store, storage, informer, state_files, clock, addresses, boot_id
        )
        self._other_boot = OtherBoot(name, store, informer, boot_id)
        self._storage_ownership = StorageOwnership(name, keys, storage, informer)
        self._name_hold = NameHold(name, informer, hypervisor, HoldFile(state_files, boot_id))
        self._etcd_history = informer.etcd_history
        self._distrust_reporter = DistrustReporter(
            name, keys, store, hypervisor, informer.etcd_history, state_files, clock, addresses
        )
        self._renewal = LeaseRenewal(store, self.lose)
        self._end = asyncio.Event()
        self._config_retry = ConfigRetry(self, store, informer, hypervisor, describe, self._end)
        self._why, self._unclean = "", True
        self._stuck = False
        """A start hangs in libvirtd."""
        self._found = False
        """How the last agent left is known."""
        self._killed: list[Domain] = []
        """Domains that were killed on this way back: their clients stay shut out when this node is let in."""

    @property
    def me(self) -> OwnSession:
        """The session that commits; raises Refused without one."""
        lease = self._renewal.lease
        if not self.number or lease is None:
            raise Refused("no session")
        if self._etcd_history.why:
            raise Refused(self._etcd_history.why)
        return OwnSession(node=self.name, session=self.number, lease=lease.id, generation=self.generation)

    async def run(self) -> None:
        """Have a session for as long as this process lives."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renewal.run())
            group.create_task(self._name_hold.run())
            group.create_task(self._cycle())

    async def _cycle(self) -> None:
        backoff_s = 0.2
        if away_s := self._name_hold.begin():
            self.message = (
                "an earlier agent gave its session up: this one waits so that other nodes take its VMs"
            )
            log.warning("lease_given_up_before", node=self.name, away_s=round(away_s, 1))
            await asyncio.sleep(away_s)
        while True:
            try:
                await self._join()
                backoff_s = 0.2
                await self._hold()
                await self._stay_away()
            except (Unavailable, Refused) as error:
                if self._config_retry.log_limiter(str(error)):
                    log.warning("session_retry", error=str(error), retry_in_s=backoff_s)
                self.message = str(error)
                self._leave(str(error))
                if isinstance(error, NameTaken):
                    await asyncio.sleep(error.again_s)
                    continue
                if isinstance(error, Unavailable):
                    self._name_hold.waits()  # for a storage, a libvirt or an etcd that does not answer
                await self._stay_away()
                await asyncio.sleep(backoff_s)
                backoff_s = min(5.0, backoff_s * 2)

    async def _stay_away(self) -> None:
        """After a session: for a moment; or long enough to be fenced, when no session stayed ready."""
        away_s = await self._name_hold.away_s()
        if away_s >= AWAY_S:
            log.error("lease_given_up", node=self.name, away_s=away_s, why=self.message or self._why)
            with suppress(Unavailable, Refused):
                entry = await self._store.get(self._keys.node_alive(self.name))
                if entry is not None and entry.lease and self._other_boot.mine(seen(NodeAlive, entry)):
                    await self._store.revoke(Lease(entry.lease, 0, 0.0))
        if away_s:
            await asyncio.sleep(away_s)

    def lose(self, why: str) -> None:
        """End this session now; the next one takes the whole way back."""
        self._why = self._why or why
        self._end.set()

    async def leave_if_astray(self) -> bool:
        """End this session when calls of a connection that ended may still land: the next one's barrier helps.

        Not while libvirtd hangs: its restart may take longer than the lease, and the guests are well.
        """
        astray = await self._hypervisor.astray()
        if astray and self.number:
            self.lose("libvirtd may still carry out calls of a connection that has ended")
        return astray

    async def leave(self, gone: bool = False) -> None:
        """Graceful stop: claims stay and guests run on, under a lease long enough for an upgrade.

        ``gone``: the host shuts down and its guests were seen off. The session ends at once. So others take
        what this node could not give back, unless they wait for its return.
        """
        self._name_hold.forget()  # the person who stops it may have mended what was wrong
        # First the lease, which nobody renews any more: a call that takes longer than the TTL would have this
        # node fenced, and its guests with it, for being restarted.
        lease = self._renewal.lease
        try:
            if self.number and lease is not None:
                if not gone and any(
                    claim.record and claim.record.node == self.name
                    for _, claim in self._informer.world.claims()
                ):
                    self.message = "the agent was stopped; its guests run on"
                    await self._move_to_lease(AWAY_TTL_S)
                else:
                    await self._store.revoke(lease)
        except (Unavailable, Refused) as error:
            log.info("lease_left_to_expire", error=str(error))
        await self._drained()
        # Each with a bound: a guest that hangs must not hold the agent's end up until that lease is over.
        quiet = await quiet_in_time("hypervisor", self._hypervisor.quiesce())
        quiet = await quiet_in_time("storage", self._storage.quiesce()) and quiet
        if quiet and not await self._hypervisor.astray():
            try:
                self._state_files.leave_clean_exit()
            except LocalTrouble as error:
                log.warning("clean_exit_mark_failed", error=str(error))  # the next agent restarts libvirtd

    async def follow_ttl(self) -> None:
        """Bring the session under a lease of the configured TTL, when that was changed."""
        ttl_s, lease = self._informer.world.config.lease_ttl_s, self._renewal.lease
        if self.number and lease is not None and lease.ttl_s != ttl_s:
            log.info("lease_ttl_changed", before_s=lease.ttl_s, now_s=ttl_s)
            await self._move_to_lease(ttl_s)

    async def _move_to_lease(self, ttl_s: int) -> None:
        """Put the alive key and every status of this node under a new lease; the session stays.

        Safety: a put over a living key keeps its create revision, which is the session; guarded by it.
        """
        world, old, me = self._informer.world, self._renewal.lease, self.me
        lease = await self._store.grant(ttl_s)
        alive = msgspec.structs.replace(self._describe(), ready=self.ready, generation=self.generation)
        mine = [
            (world.keys.vm_status(vm), status.record)
            for vm, claim in world.claims()
            if claim.record is not None
            and claim.record.session == self.number
            and (status := world.status(vm)) is not None
            and status.record is not None
            and status.record.session == self.number  # not the word of an owner before me
        ]
        for batch in [mine[at : at + 100] for at in range(0, len(mine), 100)] or [[]]:
            change = claims.move_to_lease(self._keys, me, lease.id, alive, batch)
            if not isinstance(await self._store.commit(change), Committed):
                raise Refused("the session was lost while it moved to another lease")
        self._renewal.hold(lease)
        if old is not None:
            await self._store.revoke(old)

    def _leave(self, why: str) -> None:
        if self.number:
            log.warning("session_lost", node=self.name, session=self.number, why=why)
        self.number, self.ready = 0, False
        self._renewal.hold(None)
        self._changed()

    async def _quiesce(self) -> None:
        """No start of an older session may land in the next one, nor a storage call.

        Safety: cancelling an await does not stop its thread. Without this wait (agent/reconcile/in_flight), a
        boot that was decided in a lost session could finish in the next: two writers.
        """
        self._stuck = self._stuck or not await starts_ended(self._hypervisor)
        await self._storage.quiesce()

    async def _join(self) -> None:
        await self._drained()
        await self._quiesce()
        if not self._found:
            self._unclean, self._found = not self._state_files.take_clean_exit(), True
        # Only now: what a call of the last session had to say (its boot was refused) does not end the next one.
        self._end.clear()
        self._why = ""
        if not await is_set_within(self._informer.looked, LISTED_S):
            raise Unavailable("etcd has not been listed yet: see that it answers at the agent's endpoints")
        await self._believe()
        self._other_boot.observe()
        if self._unclean or self._stuck or await self._hypervisor.astray():
            # Safety: calls that a dead agent left queued in libvirtd would land after we looked (CE3). So would
            # our own in one that hung, once its connection has ended: no thread waits for them any more.
            await self._hypervisor.barrier()
            self._unclean = self._stuck = False
            log.info("libvirtd_barrier", node=self.name)
        await self._storage_ownership.prepare_registration()
        await self._storage_clients.prepare_registration(self._other_boot.same_boot)
        fence = await self._fence_record()
        await self._kill_fenced(fence)
        await self._refuse_full_disk()
        await self._other_boot.refuse()
        if await self._name_hold.is_useless():
            raise Refused(
                f"no session of {self.name} stayed ready, or its agents died: "
                "it waits so that other nodes take its VMs"
            )
        lease = await self._store.grant(self._informer.world.config.lease_ttl_s)
        # Last before the registration: between the two I look dead, and the others wait only for the grace.
        await self._retire_old_key()
        since, generation = believed_generation(self._informer, self.etcd_recognised)
        self.since = self._clock.stamp()
        alive = msgspec.structs.replace(self._describe(), ready=False, generation=generation)
        floor = self._etcd_history.floor
        outcome = await self._store.commit(claims.register(self._keys, alive, lease.id, fence, since))
        if not self._etcd_history.answered(floor, outcome.revision, outcome.cluster_id):
            raise Refused(f"this etcd is rejected: {self._etcd_history.doubt}")
        if not isinstance(outcome, Committed):
            await self._store.revoke(lease)
            raise Refused("registration lost a race: looking again")
        if fence is not None and token(generation, outcome.revision) <= fence.ok.through:
            # Safety: claims of a session that a fence has reached already are anybody's.
            await self._store.revoke(lease)
            raise Refused("a fence of this node is ahead of every session: the generation went back")
        if fence is not None:
            self.fenced_through = max(self.fenced_through, fence.ok.through)
        # First the informer: until it shows my new key, the end of the old one looks like this session's.
        await self._informer.reached(outcome.revision)
        self.generation, self.number = generation, token(generation, outcome.revision)
        log.info("registered", node=self.name, session=self.number)
        self._renewal.hold(lease)
        self._name_hold.registered()
        async with self._name_hold.watched():
            await self._config_retry.wait(lambda: refuse_occupied(self._hypervisor, self.name))
            await self._config_retry.wait(self._write_down)
            await self._unblock()
            await self._config_retry.wait(self._storage_ownership.check)
            await self._become_ready()

    async def _write_down(self) -> None:
        """What this session needs on the disk and in etcd before it is used.

        Safety: whatever comes later must be above its number, also for an agent that forgot everything else.
        Registered it may be: nothing is claimed, booted or resumed before *ready*.
        """
        self._etcd_history.keep()
        await self._storage_clients.declare(self.me)

    async def _refuse_full_disk(self) -> None:
        """Raise LocalTrouble when VMs are this node's, none of them runs here, and the disk takes no mark.

        It stays away then, so that others take them: registered it would hold them for as long as the disk is
        full. While a guest runs here it comes, and waits (:meth:`_write_down`).
        """
        if self._informer.world.unfenced(self.name) and (why := self._etcd_history.try_keep()):
            here = await self._hypervisor.domains()
            if not any(domain.managed and domain.state is not DomainState.DEFINED for domain in here):
                raise LocalTrouble(why)

    async def _begin_unblock(self) -> None:
        self._state_files.begin_unblock()

    async def _end_unblock(self) -> None:
        self._state_files.end_unblock()

    async def _believe(self) -> None:
        """Raise Unavailable or Refused for an etcd that is not the one that this node has seen.

        Safety: by a listing of now. One that was restored since would give the next session a used number."""
        try:
            await self._informer.look()
            domains = await self._hypervisor.domains()
            self._etcd_history.note_domain_epochs(
                domain for domain in domains if not of_another(domain, self.name)
            )
        finally:
            if self._etcd_history.why:
                await self._distrust_reporter.report()
        if self._etcd_history.why:
            raise Refused(f"this etcd is rejected: {self._etcd_history.why}")
        refuse_generation(self._informer)
        self.etcd_recognised = True

    async def _retire_old_key(self) -> None:
        """Delete the alive key that an earlier process of this node left (CE8: its session would go on)."""
        entry = await self._store.get(self._keys.node_alive(self.name))
        await refuse_namesake(
            self.name, self._store, self._informer, self._state_files, alive=entry is not None
        )
        if entry is not None and not self._other_boot.mine(seen(NodeAlive, entry)):
            # Safety: of another machine, perhaps. It came since I looked, and its session is not mine to end.
            raise Refused("another boot of this node has registered: looking again")
        if entry is not None and entry.lease:
            await self._store.revoke(Lease(entry.lease, 0, 0.0))

    async def _fence_record(self) -> Seen[Fence] | None:
        """This node's fence record, fresh; raises Refused while a living fencer is at work on this node."""
        entry = await self._store.get(self._keys.fence(self.name))
        if entry is None:
            return None
        found = seen(Fence, entry)
        if found.record is None:
            raise Refused(f"the fence record of this node cannot be read: {found.why}")
        if under_way(found.record, self._informer.world.generation):
            fencer = await self._store.get(self._keys.node_alive(found.record.intent_by))
            if fencer is not None:
                raise Refused(f"{found.record.intent_by} is fencing this node: waiting for it to finish")
        return found

    async def _kill_fenced(self, fence: Seen[Fence] | None) -> None:
        """Kill and undefine what a fence reached, and what a restored etcd disowns."""
        through = fence.ok.through if fence is not None else 0
        self._killed += await kill_lost(
            self._hypervisor, self._informer.world, self.name, through, bool(await self.shut_out())
        )

    async def shut_out(self) -> tuple[str, ...]:
        """Under which of this node's names the storage refuses it."""
        return await self._storage_clients.shut_out()

    async def seen_at(self) -> frozenset[str]:
        """Addresses under which the storage sees clients of this host now."""
        return await self._storage_clients.seen_at()

    async def prove_address(self) -> None:
        """Before a boot, and now and then: the storage must see this node under an address that is declared."""
        me = self.me
        try:
            await self._storage_clients.prove(me)
        except Denied:
            raise  # its key says nothing of its address: nothing is booted, and the session goes on
        except Refused as error:
            if me.session == self.number:
                self.lose(f"its storage address cannot be declared: {error}")
            raise

    async def declare(self) -> None:
        """Write this node's names down once more: one of them changed."""
        if self.number:
            await self._storage_clients.declare(self.me)

    async def client_is_declared(self) -> bool:
        """Whether others know the client that this agent is now; a session on its way declares it itself."""
        return not self.ready or await self._storage_clients.client_is_declared()

    async def prove_storage(self) -> None:
        """Now and then, and when it is news: the storage must still be this cluster's."""
        number = self.number
        try:
            await self._storage_ownership.check(running=True)
        except Misconfigured as error:
            if number and number == self.number and self._informer.world.storage_readable:
                self.lose(str(error))
            raise

    async def _unblock(self) -> None:
        """Lift own blocks. Only here: registered, not ready, with no domain and no call in flight."""
        if not self._addresses:
            return
        await self._config_retry.wait(lambda: self._storage_clients.refuse_shared(*self._addresses))
        if self._state_files.unblock_pending():
            # Safety (CE7): an unblock that a dead agent sent could land after a later fence.
            log.warning("unblock_pending", seconds=PENDING_UNBLOCK_S)
            with self._name_hold.waiting():
                await asyncio.sleep(PENDING_UNBLOCK_S)
            # Safety: and a monitor that was frozen all the while carries it out when it thaws.
            if why := await self._storage.unsettled():
                self._name_hold.waits()
                raise Refused(f"an unblock of an earlier agent may still land: {why}; start it, or remove it")
        if blocked := await self.shut_out():
            if set(blocked) & set(self._addresses):
                await self._refuse_shared()
            if any(domain.managed for domain in await self._hypervisor.domains()):
                raise Refused("blocked by the storage with domains still here: rejoining from the start")
            await refuse_damaged(self._hypervisor)
            await self._config_retry.wait(self._begin_unblock)
            begun_s = asyncio.get_running_loop().time()
            await self._storage.unfence(blocked)
            if asyncio.get_running_loop().time() - begun_s > QUICK_UNBLOCK_S:
                # Safety: a slow monitor is left for another one, which gets the command too. The first copy may
                # still be on its way: the mark stays, and the next session waits for it.
                raise Refused(
                    "the unblock was so slow that it may have been sent twice: waiting for the other one"
                )
            # Answered, so not on its way: whatever fails from here on, nobody has to wait for it.
            await self._config_retry.wait(self._end_unblock)
            await self._leave_killed()
            await self._storage_clients.declare(self.me, forget_old=True)
            log.info("unblocked", node=self.name, session=self.number, addresses=list(blocked))
        await self._config_retry.wait(self._end_unblock)
        await self._config_retry.wait(lambda: self._storage_clients.settle(self.me, self._hypervisor))

    def killed(self, domain: Domain) -> None:
        """A domain was killed on the way back: its client is dealt with when this node is let in."""
        self._killed.append(domain)

    async def _leave_killed(self) -> None:
        """Shut the clients of what was killed out by themselves: who starts those VMs need not wait for them.

        For comfort: their processes have ended, and a start elsewhere finds out by itself. So all of them
        together hold the way back up for one bound.
        """
        killed, self._killed = self._killed, []
        left = [(one.volume_uuid, client) for one in killed for client in one.clients]
        try:
            async with asyncio.timeout(LEAVE_S), asyncio.TaskGroup() as group:
                for volume, client in left:
                    group.create_task(self._leave_one(volume, client))
        except TimeoutError:
            log.warning("client_evict_timeout", node=self.name, of=len(left), within_s=LEAVE_S)

    async def _leave_one(self, volume: str, client: str) -> None:
        try:
            await self._storage.evict(volume, client, dead=True)
        except (Unavailable, Refused) as error:
            log.warning("client_evict_failed", node=self.name, client=client, error=str(error))

    async def _refuse_shared(self) -> None:
        await refuse_shared(self.name, self._addresses, self._keys, self._store)

    async def _become_ready(self) -> None:
        alive = msgspec.structs.replace(self._describe(), ready=True, generation=self.generation)
        about = Event(at=self._clock.stamp(), by=f"node/{self.name}", what="node.ready", object=self.name)
        told = claims.event_of(self._keys, self._clock.ms(), self._clock.ident()[:12], about)
        outcome = await self._store.commit(claims.announce(self._keys, self.me, alive, (told,)))
        if not isinstance(outcome, Committed):
            raise Refused("the session was lost before it became ready")
        await self._informer.reached(outcome.revision)
        self.ready, self.message = True, ""
        self._killed.clear()  # the storage forgets their clients by itself, long before another unblock
        self._name_hold.ready()
        log.info("ready", node=self.name, session=self.number)
        self._changed()

    async def _hold(self) -> None:
        """Keep the session until it is lost."""
        await self._end.wait()
        lease = self._renewal.lease
        self._leave(self._why or "lease lost")
        if lease is not None:
            with suppress(Unavailable, Refused):  # it expires by itself
                await self._store.revoke(lease)

    def check(self) -> None:
        """The node's alive key may have changed: a session whose key is gone is over, whatever renewals say."""
        if self.number and self._informer.world.session(self.name) != self.number:
            self.lose("my alive key is gone")
