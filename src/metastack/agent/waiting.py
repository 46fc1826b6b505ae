"""Waits with a bound, and retries until a step works.

Owns: that. Refuses: knowing what for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from ..ports import Refused, Unavailable

log = structlog.get_logger()


async def is_set_within(event: asyncio.Event, wait_s: float) -> bool:
    """Whether the event is set, at the latest after ``seconds``."""
    try:
        async with asyncio.timeout(wait_s):
            return await event.wait()
    except TimeoutError:
        return False


async def retry_until_stopped(what: str, step: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    """Do a step of an agent's start until it works or ``stop`` is set: what it needs may be down just now."""
    backoff_s = 0.5
    while not stop.is_set():
        try:
            await step()
            return
        except (Unavailable, Refused) as error:
            log.warning("startup_deferred", waits_for=what, error=str(error), retry_in_s=backoff_s)
        if not await is_set_within(stop, backoff_s):
            backoff_s = min(10.0, backoff_s * 2)
