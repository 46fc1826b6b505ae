"""Fences that are not in the storage any more, and living nodes that are blocked."""

from __future__ import annotations

from collections.abc import Iterator

from metastack.core.state.fence_proof import UNBLOCKED

from ..fence.views import returned
from .facts import Facts, Finding, error, info, warning


def check(facts: Facts) -> Iterator[Finding]:
    storage, world = facts.storage, facts.world
    if storage is None:
        yield info(
            "storage",
            f"was not checked: {facts.storage_why or 'no reason recorded'}",
            "metastack context list -o wide",
        )
        return
    if not storage.remote_fence:
        return
    for name in world.nodes():
        fence, known = world.fence(name), world.facts(name)
        alive = world.alive(name)
        receipt = fence.record.receipt if fence is not None and fence.record is not None else None
        # One that came back after that fence lifted the block itself.
        past = receipt is None or receipt.method == UNBLOCKED or returned(world, name)
        if alive is None and receipt is not None and not past:
            missing = [each for each in (*receipt.addresses, *receipt.clients) if each not in storage.blocked]
            if missing:
                yield error(
                    f"node {name}",
                    f"was fenced at {receipt.at}, but the storage does not block {', '.join(missing)}: a guest "
                    "that still runs there can write to disks that other nodes use now",
                    f'metastack node fence {name} --reason "its block is gone"',
                )
        mine = known.record.storage_addresses if known is not None and known.record is not None else ()
        shut = [address for address in mine if address in storage.blocked]
        if alive is not None and alive.record is not None and alive.record.ready and shut:
            yield warning(
                f"node {name}",
                f"is ready, but the storage blocks {', '.join(shut)}: the node rejoins by itself soon",
                f"metastack node show {name}",
            )
