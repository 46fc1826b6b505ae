"""KVM: nodes that emulate, and why."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, warning


def check(facts: Facts) -> Iterator[Finding]:
    for name, alive in facts.alive():
        if alive.hypervisor == "qemu":
            yield warning(
                f"node {name}",
                f"emulates its guests, far slower than KVM: {alive.hypervisor_why or 'no reason reported'}",
                f"metastack node show {name}",
            )
