"""Scores: how good a place a node is for a VM, part by part, 0 to 1 each; weighted by the settings."""

from __future__ import annotations

from ..model import VmSpec, Weights
from .nodes import NodeView

SOON_MS = 64
"""A node that hears of changes later than that is the worse place: the VM would wait for it ..."""
LATE_MS = 256
"""... all the more until it hears so late."""
LATE_SPREAD = 0.15
"""A late node that is spread to gets less, and its part when it has that much more capacity than any other:
were it never taken it would stay empty. Packing does not need it before all others are full."""


def free_shares(spec: VmSpec, node: NodeView) -> tuple[float, float]:
    """Shares of vCPU and memory that are still free after taking the VM, 0..1."""
    room, taken = node.room, node.promised
    cpu = (room.cpus - taken.cpus - spec.cpus) / room.cpus if room.cpus else 0.0
    memory = (
        (room.memory_mib - taken.memory_mib - spec.memory_mib) / room.memory_mib if room.memory_mib else 0.0
    )
    # Written out: min and max would cost more than all the rest.
    cpu = 0.0 if cpu < 0.0 else 1.0 if cpu > 1.0 else cpu
    return cpu, 0.0 if memory < 0.0 else 1.0 if memory > 1.0 else memory


def parts(spec: VmSpec, node: NodeView, weights: Weights) -> dict[str, float]:
    """Each part that has a weight and depends on nothing but the VM's shape and the node's load."""
    cpu, memory = free_shares(spec, node)
    found: dict[str, float] = {}
    if weights.spread:
        found["spread"] = min(cpu, memory)
    if weights.pack:
        found["pack"] = 1.0 - (cpu + memory) / 2
    if weights.balanced:
        found["balanced"] = 1.0 - abs(cpu - memory)
    if weights.image:
        found["image"] = 1.0 if node.images.get(spec.image_uuid) else 0.0
    if node.lag_ms > SOON_MS:
        most = weights.pack + LATE_SPREAD * max(1.0, weights.spread + weights.balanced)
        found["late"] = -most * min(1.0, node.lag_ms / LATE_MS)
    return found


def total(found: dict[str, float], weights: Weights) -> float:
    """The weighted sum of the parts; preferences of groups come with their weight already in them."""
    return sum(value * getattr(weights, part, 1.0) for part, value in found.items())


def base(spec: VmSpec, node: NodeView, weights: Weights) -> int:
    """The score in whole millionths: sums of floats must not decide who is first."""
    if weights.balanced or weights.image or (weights.pack and weights.spread) or node.lag_ms > SOON_MS:
        return round(total(parts(spec, node, weights), weights) * 1e6)
    # The usual ones, without the detour: this runs for every change of every node's load. A test compares them.
    cpu, memory = free_shares(spec, node)
    if weights.pack:
        return round((1.0 - (cpu + memory) / 2) * weights.pack * 1e6)
    return round((cpu if cpu < memory else memory) * weights.spread * 1e6)
