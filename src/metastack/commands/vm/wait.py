"""Waiting until a change is real: by watching, with a deadline, and with words for what stands in the way.

Owns: when a goal is reached, when it cannot be any more, and the sentence for both.
Refuses: polling. (Only the explanation of a VM that no node takes is computed again now and then.)
Rule: a wait is about one VM: its UUID is pinned at the first look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

from metastack.core.model import Phase, Power, VmId, VmSpec
from metastack.core.placement import PlacementEngine
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.keys import Kind

from ..problem import Code, Problem, conflict, not_found
from ..reading import EVERYTHING, StateFollower, follow, prefixes_of_vm, read_world
from ..request import Cluster
from .break_lock import in_the_way, what_to_do
from .change import label_of
from .look import explains
from .views import VmView, vm_view

EXPLAIN_AFTER_S = 1.0
EXPLAIN_EVERY_S = 5.0
CRASHES = 3
"""A guest that crashed so often while being waited for will not be running soon."""


class Goal(StrEnum):
    """What can be waited for."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DELETED = "deleted"


Progress = Callable[[VmView], None]
"""Called with every view that differs from the one before in phase, node or message."""


async def wait_vm(
    cluster: Cluster,
    vm: VmId,
    goal: Goal,
    timeout_s: float,
    spec: VmSpec | None = None,
    progress: Progress | None = None,
    node: str = "",
    of_s: float = 0.0,
) -> VmView | None:
    """Wait for a goal; the VM as it is then, None when it is deleted. Raises Problem.

    ``spec`` is what the command before wrote: the wait is for that UUID, and running means that run of it;
    with ``node``, on that node. ``of_s``: the time of which ``timeout_s`` is left, after waiting for others.
    """
    found = spec or await _pinned(cluster, vm, goal)
    if found is None:
        return None
    wait = _Wait(cluster, found, goal, progress, node)
    wanted = [
        *cluster.keys.prefixes((Kind.NODE_ALIVE, Kind.FENCE)),
        *prefixes_of_vm(cluster.keys, vm, found.volume_uuid),
    ]
    try:
        async with asyncio.timeout(timeout_s), follow(cluster, wanted) as follower:
            return await wait.run(follower)
    except TimeoutError:
        raise wait.too_late(timeout_s, of_s) from None


async def _pinned(cluster: Cluster, vm: VmId, goal: Goal) -> VmSpec | None:
    """The spec to wait for, when no command gave one; None: deleted, and that was the goal."""
    found = await cluster.read(VmSpec, cluster.keys.vm_spec(vm))
    if found is not None and found.record is not None:
        return found.record
    world = await read_world(cluster, prefixes_of_vm(cluster.keys, vm))
    view = vm_view(world, vm, lambda: None)
    if goal is Goal.DELETED and view is None:
        return None
    if view is not None and view.deleted and view.uuid and goal is Goal.DELETED:
        return VmSpec(
            project=vm.project,
            name=vm.name,
            uuid=view.uuid,
            image="",
            image_uuid="",
            volume_uuid=view.volume_uuid or "",
            cpus=0,
            memory_mib=0,
            disk_bytes=0,
        )
    if view is not None and view.broken:
        raise Problem(Code.FAILED, label_of(vm), view.message or "is broken")
    raise not_found(label_of(vm), "`metastack vm list` shows the VMs")


class _Wait:
    """One wait."""

    def __init__(
        self, cluster: Cluster, spec: VmSpec, goal: Goal, progress: Progress | None, node: str = ""
    ) -> None:
        self._cluster = cluster
        self._node = node
        self._spec = spec
        self._goal = goal
        self._progress = progress
        self._engine: PlacementEngine | None = None
        self._view: VmView | None = None
        self._held_by = ""
        self._crashes = -1

    async def run(self, follower: StateFollower) -> VmView | None:
        pause = EXPLAIN_AFTER_S
        while True:
            view = self._look(follower.world)
            if self._reached(follower.world, view):
                return view
            self._hopeless(follower.world, view)
            if view is None or not explains(follower.world, view):
                await follower.changed()
                continue
            try:
                async with asyncio.timeout(pause):
                    await follower.changed()
            except TimeoutError:
                everything = await read_world(self._cluster, self._cluster.keys.prefixes(EVERYTHING))
                self._engine = PlacementEngine(everything)
                pause = EXPLAIN_EVERY_S

    def _look(self, world: ClusterState) -> VmView | None:
        view = vm_view(world, self._spec.id, lambda: self._engine)
        before, self._view = self._view, view
        self._held_by = in_the_way(world, self._spec.id)
        if view is not None and self._before_its_disk(world, view):
            view.message = "creating its disk from its image" if self._to_make(world) else "its disk exists"
        if view is not None and self._progress is not None:
            told = (view.phase, view.node, view.message)
            if before is None or told != (before.phase, before.node, before.message):
                self._progress(view)
        return view

    def _to_make(self, world: ClusterState) -> bool:
        disk = world.volume(self._spec.project, self._spec.volume_uuid) if self._spec.volume_uuid else None
        return disk is not None and disk.record is not None and disk.record.made is False

    def _before_its_disk(self, world: ClusterState, view: VmView) -> bool:
        """Whether it failed before its disk was given up (``vm rebuild``) or made: its node tries once more."""
        status, vm = world.status(self._spec.id), self._spec
        disk = world.volume(vm.project, vm.volume_uuid) if vm.volume_uuid else None
        return (
            view.phase == Phase.FAILED
            and self._mine(view)
            and status is not None
            and disk is not None
            and status.mod < disk.mod
        )

    def _mine(self, view: VmView | None) -> bool:
        return view is not None and view.uuid == self._spec.uuid

    def _reached(self, world: ClusterState, view: VmView | None) -> bool:
        vm = self._spec.id
        if self._goal is Goal.DELETED:
            held = world.claim(vm)
            claimed = held is not None and (held.record is None or held.record.uuid == self._spec.uuid)
            disk = self._spec.volume_uuid and world.volume(vm.project, self._spec.volume_uuid)
            return not claimed and not disk and (not self._mine(view) or bool(view and view.deleted))
        if view is None or not self._mine(view) or view.deleted:
            return False
        status = world.status(vm)
        if self._goal is Goal.RUNNING:
            run = status.record.run if status is not None and status.record is not None else 0
            return view.phase == Phase.RUNNING and run >= self._spec.run and self._node in ("", view.node)
        return view.phase == self._goal.value

    def _hopeless(self, world: ClusterState, view: VmView | None) -> None:
        """Raise when waiting on cannot help."""
        vm, object = self._spec.id, label_of(self._spec.id)
        if self._goal is Goal.DELETED:
            return
        if view is None or view.deleted:
            raise conflict(object, "was deleted meanwhile")
        if view.broken:
            raise Problem(Code.FAILED, object, view.message or "is broken", "upgrade this program")
        if not self._mine(view):
            raise conflict(object, "was deleted and created again meanwhile", f"`metastack vm show {vm}`")
        if self._goal is Goal.STOPPED:
            return
        if view.phase == Phase.STOPPED:
            why = "was stopped meanwhile" if view.power == Power.OFF else (view.message or "is stopped")
            raise Problem(Code.FAILED, object, why, f"`metastack vm start {vm}` starts it")
        status = world.status(vm)
        run = status.record.run if status is not None and status.record is not None else 0
        if self._before_its_disk(world, view):
            return
        if view.phase == Phase.FAILED and not 0 < run < self._spec.run:  # not what an earlier run came to
            crashes = view.crashes or 0
            if self._crashes < 0:
                self._crashes = crashes
            if not view.retry_at or crashes - self._crashes >= CRASHES:
                raise Problem(
                    Code.FAILED,
                    object,
                    f"failed: {view.message or 'its node reports no reason'}",
                    self._hint(view),
                )

    def too_late(self, timeout_s: float, of_s: float = 0.0) -> Problem:
        view, vm = self._view, self._spec.id
        # What was left for this one says nothing to a person, who gave the whole.
        late = f"within --timeout {round(of_s, 1):g} s" if of_s else f"after {round(timeout_s, 1):g} s"
        object = label_of(vm)
        if self._goal is Goal.DELETED:
            said = f": {view.message}" if view is not None and view.deleted and view.message else ""
            return Problem(
                Code.TIMEOUT,
                object,
                f"its spec is deleted but the deletion is not complete {late}{said}",
                f"the deletion continues by itself; `metastack vm wait {vm} --for deleted` waits again",
            )
        phase = view.phase if view is not None else "unknown"
        where = f" on {self._node}" if self._node else ""
        if where and view is not None and view.node:
            phase = f"{phase} on {view.node}"
        said = f": {view.message}" if view is not None and view.message else ""
        wanted = f"{self._goal.value}{where}"
        return Problem(
            Code.TIMEOUT,
            object,
            (f"is {phase}, not {wanted} {late}" if of_s else f"is {phase} {late}, not {wanted}") + said,
            self._hint(view) + f"; `metastack vm wait {vm} --for {self._goal.value}` waits again",
        )

    def _hint(self, view: VmView | None) -> str:
        vm = self._spec.id
        if view is not None and view.phase == Phase.PENDING:
            rooms = list(self._engine.nodes.values()) if self._engine is not None else []
            there = sorted({bridge for room in rooms for bridge in room.bridges})
            if any(nic.bridge not in there for nic in self._spec.nics) and rooms:
                return (
                    f"delete it and use --network with a bridge that exists: {', '.join(there)}"
                    if there
                    else "no node has a bridge: delete it and use --network none"
                )
            if view.message and view.message.startswith("starts after"):
                return f"`metastack vm explain {vm}` shows the VM that it waits for"
            return f"`metastack vm explain {vm}` shows the reason of every node; free capacity, or request less"
        if view is not None and view.phase == Phase.CLAIMED:
            return f"`metastack status` and `metastack node show {view.node}` show the state of its node"
        if view is not None and self._goal is Goal.STOPPED:
            return f"`metastack vm stop {vm} --force` ends a guest that ignores the shutdown"
        if self._held_by:
            return f"{what_to_do(self._held_by, vm)}; `metastack vm explain {vm}` names the client of its disk"
        return f"`metastack vm show {vm}` shows its full state"
