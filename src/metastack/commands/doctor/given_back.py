"""Nodes that could not start VMs, and gave them back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from metastack.core.model import VmId
from metastack.core.state.keys import Kind

from .facts import Facts, Finding, warning

SHOWN: Final = 3


def check(facts: Facts) -> Iterator[Finding]:
    by_node: dict[str, dict[str, str]] = {}
    for project, name, node in sorted(facts.world.names(Kind.PENALTY)):
        penalty = facts.world.penalty(vm := VmId(project, name), node)
        if penalty is not None:
            by_node.setdefault(node, {})[str(vm)] = penalty.reason
    for node, vms in by_node.items():
        told = ", ".join(list(vms)[:SHOWN]) + (f" and {len(vms) - SHOWN} more" if len(vms) > SHOWN else "")
        reasons = list(dict.fromkeys(vms.values()))
        why = reasons[0] + (f" (and {len(reasons) - 1} other reasons)" if len(reasons) > 1 else "")
        yield warning(
            f"node {node}",
            f"could not start {told}: returned to pending, not tried here again for a while: {why}",
            f"metastack node show {node}",
        )
