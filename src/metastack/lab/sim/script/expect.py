"""Observations that a scenario demands at a moment: ``at 30 expect running vm1 n2``.

Owns: the words after ``expect``. Refuses: asking the agents; it looks at the machines, etcd and the pool.
"""

from __future__ import annotations

from ....core.domains import DomainState
from ....core.model import Claim, Fence, VmId, VmStatus
from ....core.state.cluster_state import seen
from ..engine.lab import Lab


def _where(lab: Lab, name: str) -> list[str]:
    return [
        host.name
        for host in lab.hosts.values()
        for domain in host.hypervisor.guests()
        if domain.managed and domain.name == name and domain.state is DomainState.RUNNING
    ]


def _said(lab: Lab, event: str, about: str = "") -> int:
    """How often any agent logged an event: of a VM, a victim, or by a node."""
    return sum(
        1
        for _, node, name, fields in lab.trace.events
        if name == event and (not about or about in (node, fields.get("vm"), fields.get("victim")))
    )


def expect(lab: Lab, args: tuple[str, ...]) -> str:
    """What is wrong; empty when it is as expected."""
    match args:
        case ["running", name]:
            return "" if len(_where(lab, name)) == 1 else f"runs on {_where(lab, name) or 'no node'}"
        case ["running", name, node]:
            return "" if _where(lab, name) == [node] else f"runs on {_where(lab, name) or 'no node'}"
        case ["not-running", name]:
            return f"runs on {_where(lab, name)}" if _where(lab, name) else ""
        case ["unclaimed", name]:
            found = lab.cluster.get(lab.keys.claim(VmId("default", name)))
            return "" if found is None else "is claimed"
        case ["phase", name, phase]:
            entry = lab.cluster.get(lab.keys.vm_status(VmId("default", name)))
            record = seen(VmStatus, entry).record if entry is not None else None
            is_now = record.phase.value if record is not None else "without status"
            return "" if is_now == phase else f"is {is_now}"
        case ["ready", node]:
            agent = lab.hosts[node].agent
            return "" if agent is not None and agent.node.session.ready else "is not ready"
        case ["not-ready", node]:
            agent = lab.hosts[node].agent
            return "is ready" if agent is not None and agent.node.session.ready else ""
        case ["blocked", node]:
            return "" if lab.hosts[node].shut_out() else "is not blocked"
        case ["not-blocked", node]:
            return "is blocked" if lab.hosts[node].shut_out() else ""
        case ["never-fenced", node]:
            entry = lab.cluster.get(lab.keys.fence(node))
            fence = seen(Fence, entry).record if entry is not None else None
            return "" if fence is None or not fence.through else "was fenced"
        case ["braked", node]:
            agent = lab.hosts[node].agent
            return "" if agent is not None and agent.fencer.braked else "its brake is off"
        case ["fenced", node]:
            entry = lab.cluster.get(lab.keys.fence(node))
            fence = seen(Fence, entry).record if entry is not None else None
            return "" if fence is not None and fence.through and not fence.intent else "is not fenced"
        case ["claimed", name, node]:
            entry = lab.cluster.get(lab.keys.claim(VmId("default", name)))
            claim = seen(Claim, entry).record if entry is not None else None
            return "" if claim is not None and claim.node == node else f"claim: {claim}"
        case ["domain", name, node]:
            known = [d for d in lab.hosts[node].hypervisor.known() if d.managed and d.name == name]
            return "" if known else f"{node} has no domain of it"
        case ["no-domain", name, node]:
            known = [d for d in lab.hosts[node].hypervisor.known() if d.managed and d.name == name]
            return f"{node} has {known}" if known else ""
        case ["boots", name, count]:
            times = _said(lab, "booted", f"default/{name}")
            return "" if times == int(count) else f"was booted {times} times"
        case ["said", event, *about]:
            return "" if _said(lab, event, *about) else "nobody said so"
        case ["unsaid", event, *about]:
            return "it was said" if _said(lab, event, *about) else ""
        case ["refusing", node]:
            return "" if lab.cluster.get(lab.keys.refusal(node)) is not None else "does not say that it refuses"
        case ["images", count]:
            return "" if len(lab.pool.images) == int(count) else f"there are {len(lab.pool.images)}"
        case ["disks", count]:
            return "" if len(lab.pool.disks) == int(count) else f"there are {len(lab.pool.disks)}"
        case _:
            return "no such expectation"
