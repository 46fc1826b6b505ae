"""Faults of machines, of agents, and of the network between a node and etcd or the storage.

Owns: what each of these verbs does and how it ends. Refuses: choosing; that is the schedule's, or an author's.
"""

from __future__ import annotations

from ..engine.lab import Lab
from .verbs import Undo, fault, host_of, nothing

# --- machines and agents


@fault("crash", "node", lasts=True)
def _crash(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The agent is killed (SIGKILL); the service manager starts it again at the end."""
    host = host_of(lab, args)
    return host.start if host.crash() else None


@fault("stop", "node", lasts=True)
def _stop(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The agent is stopped gracefully (an upgrade), and started at the end."""
    host = host_of(lab, args)

    def again() -> None:
        if host.process is not None:  # still on its way out: it has had its time
            host.crash()
        host.start()

    return again if host.stop() else None


@fault("power-cut", "node", lasts=True)
def _power_cut(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The machine loses power, and boots at the end."""
    host = host_of(lab, args)
    return host.power_on if host.power_cut() else None


@fault("freeze", "node", lasts=True)
def _freeze(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The agent is stopped (SIGSTOP) and goes on (SIGCONT) at the end."""
    process = host_of(lab, args).process
    if process is None or process.frozen:
        return None
    lab.loop.freeze(process)

    def thaw() -> None:
        if not process.dead:
            lab.loop.thaw(process)

    return thaw


@fault("clock-jump", "node")
def _clock_jump(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The machine's wall clock jumps by that many seconds."""
    host_of(lab, args).skew_s += float(args[1])
    return nothing


# --- the network between a node and etcd, and the storage


def _store_of(lab: Lab, args: tuple[str, ...], act: str) -> Undo | None:
    host = host_of(lab, args)
    store = host.store
    if store is None:
        return None
    getattr(store, act)()
    return store.heal


@fault("cut-etcd", "node", lasts=True)
def _cut_etcd(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Nothing passes between the node and etcd."""
    return _store_of(lab, args, "partition")


@fault("cut-etcd-replies", "node", lasts=True)
def _cut_etcd_replies(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The node's requests reach etcd and are carried out; nothing comes back."""
    return _store_of(lab, args, "partition_back")


@fault("deafen", "node", lasts=True)
def _deafen(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Requests work, watch events do not come."""
    return _store_of(lab, args, "deafen")


@fault("late-events", "node", lasts=True)
def _late_events(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Watch events come seconds late."""
    host = host_of(lab, args)
    store = host.store
    if store is None:
        return None
    store.watch_lag_s = lambda: host.random.uniform(0.2, 4.0)

    def end() -> None:
        store.watch_lag_s = lambda: 0.0

    return end


@fault("lose-events", "node")
def _lose_events(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The next batch of watch events is never delivered."""
    host = host_of(lab, args)
    host.lost_events = True
    return nothing if _store_of(lab, args, "lose_next_events") else None


@fault("lose-reply", "node", at_once=True)
def _lose_reply(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The next request is carried out, its answer is lost."""
    return nothing if _store_of(lab, args, "lose_next_reply") else None


@fault("lose-commit", "node", at_once=True)
def _lose_commit(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The next transaction never arrives; its sender cannot know."""
    return nothing if _store_of(lab, args, "lose_next_commit") else None


@fault("late-commit", "node", at_once=True)
def _late_commit(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The next transaction arrives that many seconds later, long after its sender gave up."""
    store = host_of(lab, args).store
    if store is None:
        return None
    store.delay_next_commit(float(args[1]))
    return nothing


@fault("cut-storage", "node", lasts=True)
def _cut_storage(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Nothing passes between the node and the storage: writes stall, and land (or are refused) at the end."""
    host = host_of(lab, args)
    if host.address in lab.pool.cut:
        return None
    lab.pool.partition(host.address)

    def heal() -> None:
        lab.pool.heal(host.address)
        host.storage_returns()

    return heal


@fault("cut", "node", lasts=True)
def _cut(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The node is cut off from etcd and storage."""
    etcd, storage = _cut_etcd(lab, args), _cut_storage(lab, args)

    def heal() -> None:
        for undo in (etcd, storage):
            if undo is not None:
                undo()

    return heal if etcd or storage else None
