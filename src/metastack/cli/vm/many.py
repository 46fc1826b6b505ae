"""One verb for one VM or several: write all, wait for all, print all, then say what went wrong with which.

Owns: what becomes of the others when one fails. Refuses: knowing any verb, and creating
(:mod:`.create`, where a group is there whole or not at all).
Rule: every name is read before anything is written; one that fails keeps no other from being tried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from ..frame import Frame
from ..session import interrupted, note, vm_progress, with_cluster
from .options import change_vm, new_request, vm_id, vm_printer

if TYPE_CHECKING:
    from metastack.commands.problem import Problem
    from metastack.commands.request import Cluster, Request
    from metastack.commands.vm.change import Changed
    from metastack.commands.vm.views import VmView
    from metastack.commands.vm.wait import Goal
    from metastack.core.model import VmId

LAST_S = 0.5
"""What a VM is waited for at least when the time went into those before it, seconds."""


def vm_ids(names: Sequence[str], project: str) -> list[VmId]:
    """The VMs that were named, each once."""
    return list(dict.fromkeys(vm_id(name, project) for name in names))


def change_vms(
    frame: Frame,
    names: Sequence[str],
    project: str,
    reason: str,
    work: Callable[[Cluster, Request, VmId], Awaitable[Changed]],
    goal: Goal,
    no_wait: bool,
    timeout: float,
    done: str,
) -> None:
    """Write a change of each VM, wait for all of them within one ``timeout``, print them."""
    vms = vm_ids(names, project)
    if len(vms) == 1:
        change_vm(frame, vms[0], reason, lambda c, d: work(c, d, vms[0]), goal, no_wait, timeout, done)
        return
    changed: dict[VmId, Changed] = {}

    async def write(cluster: Cluster, vm: VmId) -> None:
        changed[vm] = await work(cluster, new_request(reason), vm)
        note(frame, f"{vm}: {done}" if changed[vm].changed else f"{vm}: unchanged")

    async def wait(cluster: Cluster, vm: VmId, left_s: float) -> None:
        from metastack.commands.vm.wait import wait_vm

        await wait_vm(cluster, vm, goal, left_s, changed[vm].spec, vm_progress(frame), of_s=timeout)

    async def both(cluster: Cluster) -> tuple[list[VmView], list[Problem]]:
        from metastack.commands.vm.look import look_at_vm

        problems = await each(vms, lambda vm: write(cluster, vm))
        if not no_wait:
            problems += await in_time(list(changed), timeout, lambda vm, left: wait(cluster, vm, left))
        views = [await look_at_vm(cluster, vm) for vm in changed]
        return [view for view in views if view is not None], problems

    try:
        views, problems = with_cluster(frame, both)
    except KeyboardInterrupt:
        if changed:
            interrupted(frame, f"vm {', '.join(map(str, changed))}", "the change was written and stays")
        raise
    vm_printer(frame).list(views)
    fail(problems)


async def each(vms: Sequence[VmId], work: Callable[[VmId], Awaitable[None]]) -> list[Problem]:
    """Do it to one after the other; what went wrong with whom."""
    from metastack.commands.problem import Problem

    problems = []
    for vm in vms:
        try:
            await work(vm)
        except Problem as problem:
            problems.append(problem)
    return problems


async def in_time(
    vms: Sequence[VmId], timeout: float, wait: Callable[[VmId, float], Awaitable[None]]
) -> list[Problem]:
    """Wait for one after the other, each for what is left of the time that all have."""
    import asyncio

    loop = asyncio.get_running_loop()
    ends_s = loop.time() + timeout
    return await each(vms, lambda vm: wait(vm, max(LAST_S, ends_s - loop.time())))


def fail(problems: Sequence[Problem]) -> None:
    """Raise what went wrong, if anything did: the first gives the exit status, all are told."""
    from metastack.commands.problem import all_of

    if problems:
        raise all_of(problems)
