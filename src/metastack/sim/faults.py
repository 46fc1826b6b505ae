"""Everything that can happen: faults of machines, networks, etcd, storage, libvirtd and guests, and wishes.

Owns: the verbs of the script language, each with what it does and how it ends.
Refuses: choosing; that is the schedule's (:mod:`metastack.sim.schedule`) or a scenario's author.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..core.facts import DomainState
from ..ports import Denied, Unavailable

if TYPE_CHECKING:
    from .host import SimHost
    from .lab import Lab

Undo = Callable[[], None]
Apply = Callable[["Lab", tuple[str, ...]], Undo | None]


def _nothing() -> None:
    """A fault that needs no end."""


@dataclass(frozen=True)
class Fault:
    """One verb."""

    scope: str
    """``node``: its victim is the node among its arguments; ``vm``; ``cluster``."""
    lasts: bool
    """It has an end: ``for SECONDS``."""
    apply: Apply
    """Do it; returns how it ends, or None when there was nothing to do."""
    doc: str

    @property
    def at_once(self) -> bool:
        """It concerns the very request that is about to be sent."""
        return self.apply in (_lose_reply, _lose_commit, _late_commit)


FAULTS: Final[dict[str, Fault]] = {}


def _fault(verb: str, scope: str, lasts: bool = False) -> Callable[[Apply], Apply]:
    def register(apply: Apply) -> Apply:
        FAULTS[verb] = Fault(scope, lasts, apply, (apply.__doc__ or "").strip())
        return apply

    return register


def _host(lab: Lab, args: tuple[str, ...]) -> SimHost:
    return lab.hosts[args[0]]


# --- machines and agents


@_fault("crash", "node", lasts=True)
def _crash(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The agent is killed (SIGKILL); the service manager starts it again at the end."""
    host = _host(lab, args)
    return host.start if host.crash() else None


@_fault("stop", "node", lasts=True)
def _stop(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The agent is stopped gracefully (an upgrade), and started at the end."""
    host = _host(lab, args)

    def again() -> None:
        if host.process is not None:  # still on its way out: it has had its time
            host.crash()
        host.start()

    return again if host.stop() else None


@_fault("power-cut", "node", lasts=True)
def _power_cut(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The machine loses power, and boots at the end."""
    host = _host(lab, args)
    return host.power_on if host.power_cut() else None


@_fault("freeze", "node", lasts=True)
def _freeze(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The agent is stopped (SIGSTOP) and goes on (SIGCONT) at the end."""
    process = _host(lab, args).process
    if process is None or process.frozen:
        return None
    lab.loop.freeze(process)

    def thaw() -> None:
        if not process.dead:
            lab.loop.thaw(process)

    return thaw


@_fault("clock-jump", "node")
def _clock_jump(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The machine's wall clock jumps by that many seconds."""
    _host(lab, args).skew_s += float(args[1])
    return _nothing


# --- the network between a node and etcd, and the storage


def _store_of(lab: Lab, args: tuple[str, ...], act: str) -> Undo | None:
    host = _host(lab, args)
    store = host.store
    if store is None:
        return None
    getattr(store, act)()
    return store.heal


@_fault("cut-etcd", "node", lasts=True)
def _cut_etcd(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Nothing passes between the node and etcd."""
    return _store_of(lab, args, "partition")


@_fault("cut-etcd-replies", "node", lasts=True)
def _cut_etcd_replies(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The node's requests reach etcd and are carried out; nothing comes back."""
    return _store_of(lab, args, "partition_back")


@_fault("deafen", "node", lasts=True)
def _deafen(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Requests work, watch events do not come."""
    return _store_of(lab, args, "deafen")


@_fault("late-events", "node", lasts=True)
def _late_events(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Watch events come seconds late."""
    host = _host(lab, args)
    store = host.store
    if store is None:
        return None
    store.watch_lag_s = lambda: host.random.uniform(0.2, 4.0)

    def end() -> None:
        store.watch_lag_s = lambda: 0.0

    return end


@_fault("lose-events", "node")
def _lose_events(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The next batch of watch events is never delivered."""
    host = _host(lab, args)
    host.lost_events = True
    return _nothing if _store_of(lab, args, "lose_next_events") else None


@_fault("lose-reply", "node")
def _lose_reply(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The next request is carried out, its answer is lost."""
    return _nothing if _store_of(lab, args, "lose_next_reply") else None


@_fault("lose-commit", "node")
def _lose_commit(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The next transaction never arrives; its sender cannot know."""
    return _nothing if _store_of(lab, args, "lose_next_commit") else None


@_fault("late-commit", "node")
def _late_commit(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The next transaction arrives that many seconds later, long after its sender gave up."""
    store = _host(lab, args).store
    if store is None:
        return None
    store.delay_next_commit(float(args[1]))
    return _nothing


@_fault("cut-storage", "node", lasts=True)
def _cut_storage(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Nothing passes between the node and the storage: writes stall, and land (or are refused) at the end."""
    host = _host(lab, args)
    if host.address in lab.pool.cut:
        return None
    lab.pool.partition(host.address)

    def heal() -> None:
        lab.pool.heal(host.address)
        host.storage_returns()

    return heal


@_fault("cut", "node", lasts=True)
def _cut(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The node is cut off from etcd and storage."""
    etcd, storage = _cut_etcd(lab, args), _cut_storage(lab, args)

    def heal() -> None:
        for undo in (etcd, storage):
            if undo is not None:
                undo()

    return heal if etcd or storage else None


# --- etcd


def _revoke_of(lab: Lab, node: str) -> bool:
    entry = lab.cluster.get(lab.keys.node_alive(node))
    if entry is None or not entry.lease:
        return False
    lab.cluster.revoke(entry.lease)
    return True


@_fault("revoke", "node")
def _revoke(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """etcd revokes the lease of a healthy node."""
    return _nothing if _revoke_of(lab, args[0]) else None


@_fault("revoke-lying", "node", lasts=True)
def _revoke_lying(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """etcd revokes the lease of a healthy node, and renewals of it answer "ok"."""
    if not _revoke_of(lab, args[0]):
        return None
    lab.cluster.renewals_lie = True

    def end() -> None:
        lab.cluster.renewals_lie = False

    return end


@_fault("new-leader", "cluster")
def _new_leader(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """etcd elects a new leader: every lease starts again at its full TTL."""
    lab.cluster.new_leader()
    return _nothing


@_fault("etcd-down", "cluster", lasts=True)
def _etcd_down(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """etcd has no quorum."""
    if lab.cluster.down:
        return None
    lab.cluster.outage()
    return lab.cluster.recover


@_fault("compact", "cluster")
def _compact(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """etcd forgets its history."""
    lab.cluster.compact()
    return _nothing


# --- storage


@_fault("storage-down", "cluster", lasts=True)
def _storage_down(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The storage answers nobody: calls fail, writes stall."""
    if lab.pool.down:
        return None
    lab.pool.down = True

    def end() -> None:
        lab.pool.down = False
        for host in lab.hosts.values():
            host.storage_returns()

    return end


@_fault("storage-slow", "cluster", lasts=True)
def _storage_slow(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Storage calls take seconds."""
    was = lab.pool.delay_s
    if lab.slow_storage:
        return None
    lab.slow_storage = True
    lab.pool.delay_s = lambda _what: lab.random.uniform(0.5, 8.0)

    def end() -> None:
        lab.slow_storage = False
        lab.pool.delay_s = was

    return end


@_fault("storage-fails", "cluster", lasts=True)
def _storage_fails(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Every other storage call fails."""

    def fail(what: str, address: str) -> Exception | None:
        return Unavailable(f"{what}: the storage failed") if lab.random.random() < 0.5 else None

    return _pool_fails(lab, fail)


@_fault("fence-refused", "cluster", lasts=True)
def _fence_refused(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The storage refuses to block anybody."""

    def fail(what: str, address: str) -> Exception | None:
        return Denied("the storage refuses the block") if what == "fence" else None

    return _pool_fails(lab, fail)


@_fault("unblock-refused", "cluster", lasts=True)
def _unblock_refused(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The storage refuses to lift a block."""

    def fail(what: str, address: str) -> Exception | None:
        return Denied("the storage refuses the unblock") if what == "unfence" else None

    return _pool_fails(lab, fail)


def _pool_fails(lab: Lab, fail: Callable[[str, str], Exception | None]) -> Undo:
    lab.pool.fail = fail

    def end() -> None:
        if lab.pool.fail is fail:
            lab.pool.fail = lambda _what, _address: None

    return end


# --- hypervisor and guests


@_fault("libvirtd-dies", "node", lasts=True)
def _libvirtd_dies(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """libvirtd dies; guests run on. It is back at the end (or when an agent's barrier restarts it)."""
    host = _host(lab, args)
    if not host.powered or not host.hypervisor.alive:
        return None
    host.hypervisor.daemon_dies()

    def back() -> None:
        if host.powered and not host.hypervisor.alive:
            host.hypervisor.daemon_returns()

    return back


@_fault("libvirtd-slow", "node", lasts=True)
def _libvirtd_slow(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """libvirt calls take seconds: long enough for an orphan of a dead agent to land late."""
    host = _host(lab, args)
    host.hypervisor.slow_s = lambda _what: host.random.uniform(0.1, 16.0)

    def end() -> None:
        host.hypervisor.slow_s = lambda _what: 0.0

    return end


@_fault("libvirtd-fails", "node", lasts=True)
def _libvirtd_fails(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Every third libvirt call fails."""
    host = _host(lab, args)

    def fail(what: str, uuid: str) -> Exception | None:
        return Unavailable(f"{what}: libvirt failed") if host.random.random() < 0.33 else None

    host.hypervisor.fail = fail

    def end() -> None:
        host.hypervisor.fail = lambda _what, _uuid: None

    return end


def _guest(lab: Lab, name: str) -> tuple[SimHost, str] | None:
    for host in lab.hosts.values():
        for domain in host.hypervisor.active():
            if domain.managed and domain.name == name and domain.state is DomainState.RUNNING:
                return host, domain.uuid
    return None


@_fault("qemu-crash", "vm")
def _qemu_crash(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The guest's QEMU dies."""
    found = _guest(lab, args[0])
    if found is None:
        return None
    found[0].hypervisor.crash(found[1])
    return _nothing


@_fault("guest-off", "vm")
def _guest_off(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The guest switches itself off."""
    found = _guest(lab, args[0])
    if found is None:
        return None
    found[0].hypervisor.guest_powers_off(found[1])
    return _nothing


@_fault("guests-stubborn", "node", lasts=True)
def _stubborn(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Guests on this node ignore their power button."""
    host = _host(lab, args)
    host.hypervisor.graceful_s = None

    def end() -> None:
        host.hypervisor.graceful_s = 1.0

    return end


# --- wishes

WISHES: Final = (
    *("want", "delete", "recreate", "off", "force-off", "on", "restart", "force-restart", "pause", "resume"),
    *("pin", "cordon", "uncordon"),
)


def _wish(verb: str) -> None:
    def apply(lab: Lab, args: tuple[str, ...]) -> Undo | None:
        person = lab.operator
        match verb:
            case "force-off":
                done = person.off(args[0], force=True)
            case "force-restart":
                done = person.restart(args[0], force=True)
            case "uncordon":
                done = person.cordon(args[0], False)
            case _:
                done = getattr(person, verb)(*args)
        return _nothing if done else None

    FAULTS[verb] = Fault("vm" if "cordon" not in verb else "cluster", False, apply, f"A person's wish: {verb}.")


for _verb in WISHES:
    _wish(_verb)
