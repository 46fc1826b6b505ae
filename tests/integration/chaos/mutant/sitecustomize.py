"""Loaded by the interpreter of a mutated agent (PYTHONPATH): a fence that blocks nobody and says that it did.

Nothing in the shipped code can be told to do so. Removed is the block alone: intent, done, receipt and takeover
are the real ones; nobody looks whether it holds.
"""

from __future__ import annotations

from typing import Any

from metastack.agent.fencing import fence_check
from metastack.core import boot_gate as gate
from metastack.storage.ceph import fence_addresses as ceph_fence


def nothing(_handle: Any, addresses: tuple[str, ...]) -> ceph_fence.Confirmed:
    return ceph_fence.Confirmed(osd_epoch=1, verified=f"mutant: {', '.join(addresses)} were not blocked")


async def nobody(*_: object) -> dict[str, str]:
    return {}


ceph_fence.add = nothing
# Two more look whether anything was blocked, before a guest starts: without them too.
fence_check.lifted = nobody
gate.judge = lambda asked: gate.AllowBoot()
