"""Waiting for something, but not for ever. Owns: that. Refuses: knowing what for."""

from __future__ import annotations

import asyncio


async def is_set_within(event: asyncio.Event, wait_s: float) -> bool:
    """Whether the event is set, at the latest after so many seconds."""
    try:
        async with asyncio.timeout(wait_s):
            return await event.wait()
    except TimeoutError:
        return False
