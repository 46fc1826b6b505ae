"""Waits for calls in flight, each with a bound: a QEMU that is stopped answers none.

Owns: how long workers, sessions, VMs and a stop wait for calls in flight. Refuses: deciding what follows.
Rule: a call in flight belongs to one VM. Only a start may be waited for by a whole node, and not for long.

# Safety: a late order to a domain that lives (pause, resume, shutdown, metadata, its end) makes no writer. It
reaches that domain or none: a start is refused by the adapter while an order for that domain is in flight. So a
session may begin beside one. It may not beside a start, which could land when its claim is another node's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from ...ports import Hypervisor, Unavailable
from ..waiting import is_set_within

log = structlog.get_logger()

AT_WORK_S: Final = 0.1
"""Workers that are at work get so long to finish by themselves: less than the grace."""
STARTS_S: Final = 10.0
"""A start that takes longer is given up: libvirtd is restarted."""
ONE_S: Final = 0.2
"""One VM's order without an answer: then its worker looks at others, and comes back."""
STOP_S: Final = 5.0
"""A stopping agent leaves calls in flight after this; the next one restarts libvirtd."""
SLOW_S: Final = 30.0


async def drained(hypervisor: Hypervisor, idle: asyncio.Event, said: Callable[[], None]) -> None:
    """Return when no worker is in the middle of anything. Those that wait for libvirt get on at once.

    Safety: a worker that was decided in a lost session must not act in the next one. A node that cannot drain
    stays out: that costs its capacity, never a disk.
    """
    loop = asyncio.get_running_loop()
    begun_s = said_s = loop.time()
    wait_s = AT_WORK_S
    while not await is_set_within(idle, wait_s):
        late = loop.time() - begun_s > STARTS_S
        await hypervisor.interrupt(late)
        if loop.time() - said_s > SLOW_S:
            said_s = loop.time()
            said()
        wait_s = min(1.0, wait_s * 2)


async def starts_ended(hypervisor: Hypervisor) -> bool:
    """No start is in flight; false: one hangs, and only a barrier ends it."""
    try:
        async with asyncio.timeout(STARTS_S):
            await hypervisor.quiesce_starts()
    except TimeoutError:
        log.warning("start_hangs", hint="libvirtd is restarted")
        return False
    return True


async def domain_quiet(hypervisor: Hypervisor, uuid: str) -> None:
    """No order to that domain is in flight; raises Unavailable: one has no answer yet."""
    try:
        async with asyncio.timeout(ONE_S):
            await hypervisor.quiesce(uuid)
    except TimeoutError:
        raise Unavailable(f"an earlier order to the domain {uuid} has no answer yet: its QEMU hangs") from None


async def quiet_in_time(what: str, step: Awaitable[None]) -> bool:
    """A step of the agent's stop ended; false: not in time, and it is left."""
    try:
        async with asyncio.timeout(STOP_S):
            await step
    except TimeoutError:
        log.warning("stop_timed_out", what=what, hint="the next agent restarts libvirtd before it looks")
        return False
    return True
