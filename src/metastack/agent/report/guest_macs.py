"""The MAC index: which of this node's VMs has a MAC, so that a frame on a bridge costs no scan.

Owns: MAC to VMs, kept up from what changed. Refuses: knowing addresses, and acting on any.
Rule: a VM's news are passed on at most once in :data:`NEWS_EVERY_S`: what a guest may claim to be called costs
others nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ...core.model import VmId
from ...core.state.cluster_state import ClusterState
from ...core.state.keys import Kind, ParsedKey

NEWS_EVERY_S: Final = 1.0
_BEAR: Final = (Kind.VM_SPEC, Kind.CLAIM)


class GuestMacs:
    """MACs of the VMs that ``me`` has a claim on."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._of: dict[VmId, tuple[str, ...]] = {}
        self._who: dict[str, set[VmId]] = {}
        self._next_s: dict[VmId, float] = {}

    def follow(self, touched: Iterable[ParsedKey], world: ClusterState) -> None:
        """These records changed."""
        for key in touched:
            if key.kind in _BEAR:
                self._note(key.vm, world)

    def news(self, mac: str, now_s: float) -> list[tuple[VmId, float]]:
        """VMs to look at because this MAC has another address, and in how many seconds."""
        found = []
        for vm in sorted(self._who.get(mac, ())):
            due_s = max(now_s, self._next_s.get(vm, 0.0))
            self._next_s[vm] = due_s + NEWS_EVERY_S if due_s == now_s else due_s
            found.append((vm, due_s - now_s))
        return found

    def _note(self, vm: VmId, world: ClusterState) -> None:
        spec = world.spec(vm) if world.owner(vm) == self._me else None
        macs = (
            tuple(nic.mac for nic in spec.record.nics) if spec is not None and spec.record is not None else ()
        )
        before = self._of.pop(vm, ())
        if macs:
            self._of[vm] = macs
        else:
            self._next_s.pop(vm, None)
        for mac in before:
            if mac not in macs:
                self._who[mac].discard(vm)
                if not self._who[mac]:
                    del self._who[mac]
        for mac in macs:
            self._who.setdefault(mac, set()).add(vm)
