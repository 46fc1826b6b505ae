"""Faults of what a node relies on: etcd, the storage, libvirtd and the guests.

Owns: what each of these verbs does and how it ends. Refuses: choosing; that is the schedule's, or an author's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ....core.domains import DomainState
from ....core.model import Fence
from ....core.state.cluster_state import seen
from ....ports import Denied, Unavailable
from ..engine.host import SimHost
from ..engine.lab import Lab
from .verbs import Undo, fault, host_of, nothing

# --- etcd


def _revoke_of(lab: Lab, node: str) -> bool:
    entry = lab.cluster.get(lab.keys.node_alive(node))
    if entry is None or not entry.lease:
        return False
    lab.cluster.revoke(entry.lease)
    return True


@fault("revoke", "node")
def _revoke(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """etcd revokes the lease of a healthy node."""
    return nothing if _revoke_of(lab, args[0]) else None


@fault("revoke-lying", "node", lasts=True)
def _revoke_lying(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """etcd revokes the lease of a healthy node, and renewals of it answer "ok"."""
    if not _revoke_of(lab, args[0]):
        return None
    lab.cluster.renewals_lie = True

    def end() -> None:
        lab.cluster.renewals_lie = False

    return end


@fault("revoke-some", "cluster")
def _revoke_some(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A leader that was stalled goes on and revokes leases that are being kept alive: half of them."""
    struck = [_revoke_of(lab, name) for name in lab.hosts if lab.random.random() < 0.5]
    return nothing if any(struck) else None


@fault("etcd-slow", "node", lasts=True)
def _etcd_slow(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Every message between the node and etcd takes up to 1.2 s."""
    host = host_of(lab, args)
    if host.slow_etcd:
        return None
    host.slow_etcd = True

    def end() -> None:
        host.slow_etcd = False

    return end


@fault("new-leader", "cluster")
def _new_leader(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """etcd elects a new leader: every lease starts again at its full TTL."""
    lab.cluster.new_leader()
    return nothing


@fault("etcd-down", "cluster", lasts=True)
def _etcd_down(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """etcd has no quorum."""
    if lab.cluster.down:
        return None
    lab.cluster.outage()
    return lab.cluster.recover


@fault("compact", "cluster")
def _compact(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """etcd forgets its history."""
    lab.cluster.compact()
    return nothing


# --- storage


@fault("storage-down", "cluster", lasts=True)
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


@fault("storage-slow", "cluster", lasts=True)
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


@fault("storage-fails", "cluster", lasts=True)
def _storage_fails(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Every other storage call fails."""

    def fail(what: str, address: str) -> Exception | None:
        return Unavailable(f"{what}: the storage failed") if lab.random.random() < 0.5 else None

    return _pool_fails(lab, fail)


@fault("fence-refused", "cluster", lasts=True)
def _fence_refused(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The storage refuses to block anybody."""

    def fail(what: str, address: str) -> Exception | None:
        return Denied("the storage refuses the block") if what == "fence" else None

    return _pool_fails(lab, fail)


@fault("unblock-refused", "cluster", lasts=True)
def _unblock_refused(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The storage refuses to lift a block."""

    def fail(what: str, address: str) -> Exception | None:
        return Denied("the storage refuses the unblock") if what == "unfence" else None

    return _pool_fails(lab, fail)


def _pool_fails(lab: Lab, fail: Callable[[str, str], Exception | None]) -> Undo:
    lab.pool.troubles.append(fail)
    return partial(lab.pool.troubles.remove, fail)


@fault("unblock-held", "cluster", lasts=True)
def _unblock_held(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The next unblock stays in a monitor that is frozen: no answer, and it takes effect at the end."""
    return _held(lab, "unfence", once=True)


@fault("fences-held", "cluster", lasts=True)
def _fences_held(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Blocks stay in monitors that are frozen: no answers, and all take effect at the end."""
    return _held(lab, "fence", once=False)


def _held(lab: Lab, command: str, *, once: bool) -> Undo:
    pool = lab.pool
    held: list[tuple[str, ...]] = []

    def hold(what: str, address: str) -> Exception | None:
        if what != command or (once and held):
            return None
        # Whom it concerns is known only for an unblock (the sender); a block is of whoever has an open fence.
        held.append((address,) if command == "unfence" else _victims(lab))
        return Unavailable(f"{what}: the monitor is silent")

    def thaw() -> None:
        pool.troubles.remove(hold)
        for names in dict.fromkeys(held):
            lab.trace.add("--", f"the monitors carry out: {command} {' '.join(names)}")
            (pool.blocked.difference_update if command == "unfence" else pool.blocked.update)(names)
            pool.no_rights.update(name[7:] for name in names if name.startswith("client."))

    pool.troubles.append(hold)
    return thaw


def _victims(lab: Lab) -> tuple[str, ...]:
    found: list[str] = []
    for name, host in lab.hosts.items():
        entry = lab.cluster.get(lab.keys.fence(name))
        record = seen(Fence, entry).record if entry is not None else None
        if record is not None and record.intent:
            found += host.fenced_by()
    return tuple(found)


# --- hypervisor and guests


@fault("libvirtd-dies", "node", lasts=True)
def _libvirtd_dies(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """libvirtd dies; guests run on. It is back at the end (or when an agent's barrier restarts it)."""
    host = host_of(lab, args)
    if not host.powered or not host.hypervisor.alive:
        return None
    host.hypervisor.daemon_dies()

    def back() -> None:
        if host.powered and not host.hypervisor.alive:
            host.hypervisor.daemon_returns()

    return back


@fault("libvirtd-slow", "node", lasts=True)
def _libvirtd_slow(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """libvirt calls take seconds: long enough for an orphan of a dead agent to land late."""
    host = host_of(lab, args)
    host.hypervisor.slow_s = lambda _what: host.random.uniform(0.1, 16.0)

    def end() -> None:
        host.hypervisor.slow_s = lambda _what: 0.0

    return end


@fault("libvirtd-fails", "node", lasts=True)
def _libvirtd_fails(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Every third libvirt call fails."""
    host = host_of(lab, args)

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


@fault("qemu-crash", "vm")
def _qemu_crash(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The guest's QEMU dies."""
    found = _guest(lab, args[0])
    if found is None:
        return None
    found[0].hypervisor.crash(found[1])
    return nothing


@fault("guest-off", "vm")
def _guest_off(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The guest switches itself off."""
    found = _guest(lab, args[0])
    if found is None:
        return None
    found[0].hypervisor.guest_powers_off(found[1])
    return nothing


@fault("guests-stubborn", "node", lasts=True)
def _stubborn(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Guests on this node ignore their power button."""
    host = host_of(lab, args)
    host.hypervisor.graceful_s = None

    def end() -> None:
        host.hypervisor.graceful_s = 1.0

    return end
