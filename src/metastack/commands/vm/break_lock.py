"""Having a lock broken: what a person asks of the node that holds the VM's claim, and its answer.

Owns: the request's checks, its transaction, and waiting for the answer. Refuses: blocking anybody: the holder
of the claim does (:mod:`metastack.agent.reconcile.boot_gate`), since management users may not.
Rule: the request names the client that the person saw: no other one is shut out for it.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from msgspec import Struct

from metastack.core.boot_gate import WHAT_TO_DO
from metastack.core.model import BreakLock, Event, VmId
from metastack.core.protocol import broken_locks as locks
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import Unreadable, decode
from metastack.core.state.keys import Kind

from .. import names
from ..problem import Code, Problem, conflict, not_found
from ..reading import follow, prefixes_of_vm, read_world
from ..request import Cluster, Plan, Request, commit
from .change import label_of

_ADDRESS: Final = re.compile(r".*:[0-9]+/[0-9]+").fullmatch
"""A client of Ceph; of a file it is a process."""


class LockView(Struct, kw_only=True):
    """What came of it."""

    project: str
    name: str
    node: str
    """Holder of the claim."""
    client: str
    result: str
    """``asked``, ``done`` or ``gone`` (it closed the disk by itself)."""
    message: str = ""


def in_the_way(world: ClusterState, vm: VmId) -> str:
    """Client that keeps the VM from its disk, as its node says; empty: none does."""
    status, claim = world.status(vm), world.claim(vm)
    if status is None or status.record is None or claim is None or claim.record is None:
        return ""
    mine = (status.record.uuid, status.record.node) == (claim.record.uuid, claim.record.node)
    return status.record.disk_held_by if mine else ""


def what_to_do(client: str, vm: VmId) -> str:
    """What helps against a client that is in the way; of a process that has a file open only its end."""
    return (
        WHAT_TO_DO.format(name=vm)
        if _ADDRESS(client)
        else f"end {client}, which has the disk open, on its node"
    )


def check_reason(vm: VmId, reason: str) -> None:
    """Raise Problem for a bad or missing reason, before a person is asked anything."""
    names.needed_reason(reason, label_of(vm), "breaking a lock")


async def check_break_lock(cluster: Cluster, vm: VmId) -> str:
    """The client in the way; raises Problem when nobody has the disk open, or nobody could be asked."""
    return _request(await _world(cluster, vm), vm)[1].client


async def break_lock(cluster: Cluster, request: Request, vm: VmId) -> tuple[BreakLock, LockView]:
    """Ask the claim's holder to shut the client out that keeps this VM from its disk."""
    check_reason(vm, request.reason)

    async def look() -> Plan[tuple[BreakLock, LockView]]:
        world = await _world(cluster, vm)
        node, order = _request(world, vm, request)
        claim = world.claim(vm)
        assert claim is not None
        change = locks.ask(cluster.keys, vm, claim, order)
        view = LockView(project=vm.project, name=vm.name, node=node, client=order.client, result="asked")
        return Plan(
            guards=change.guards,
            effects=change.effects,
            what=change.name,
            object=label_of(vm),
            message=f"{node} is asked to block {order.client}",
            answer=(order, view),
        )

    return await commit(cluster, request, look)


async def wait_answer(
    cluster: Cluster, vm: VmId, order: BreakLock, view: LockView, timeout_s: float
) -> LockView:
    """Wait for the holder's answer; raises Problem when it refuses, or is silent for too long."""
    key = locks.answered_at(cluster.keys, order)
    try:
        async with asyncio.timeout(timeout_s), follow(cluster, [cluster.keys.break_lock(vm), key]) as follower:
            while (entry := await cluster.store.get(key)) is None:
                await follower.changed()
    except TimeoutError:
        raise Problem(
            Code.TIMEOUT,
            label_of(vm),
            f"{view.node} has not answered within {timeout_s:g} s",
            f"the request continues by itself: `metastack events --object 'vm {vm}'`",
        ) from None
    try:
        event = decode(Event, entry.value, key)
    except Unreadable as error:
        raise Problem(Code.FAILED, label_of(vm), f"the answer cannot be read: {error.why}") from None
    if event.what.endswith(".refused"):
        raise conflict(label_of(vm), event.message, f"`metastack vm show {vm}` names the client of its disk")
    view.result, view.message = event.what.rpartition(".")[2], event.message
    return view


async def _world(cluster: Cluster, vm: VmId) -> ClusterState:
    keys = cluster.keys
    return await read_world(cluster, [*prefixes_of_vm(keys, vm), keys.prefix(Kind.NODE_ALIVE)])


def _request(world: ClusterState, vm: VmId, request: Request | None = None) -> tuple[str, BreakLock]:
    """The holder, and what is asked of it."""
    object, spec, claim = label_of(vm), world.spec(vm), world.claim(vm)
    if spec is None:
        raise not_found(object, "`metastack vm list` shows the VMs")
    if claim is None or claim.record is None:
        raise conflict(object, "no node owns it, so no start waits for its disk", f"`metastack vm start {vm}`")
    node, status = claim.record.node, world.status(vm)
    if world.alive(node) is None:
        raise conflict(object, f"its node {node} is lost", f"`metastack fence show {node}`")
    client = status.record.disk_held_by if status is not None and status.record is not None else ""
    if not client:
        raise conflict(
            object,
            "no other client is known to have its disk open",
            f"`metastack vm show {vm}` shows its state",
        )
    return node, BreakLock(
        uuid=claim.record.uuid,
        claim=claim.mod,
        client=client,
        at_ms=request.at_ms if request is not None else 0,
        by=request.by if request is not None else "",
        reason=request.reason if request is not None else "",
        request_id=request.request_id if request is not None else "",
    )
