"""Another node's guests on this host: an agent that was renamed, or one that was pointed at another's libvirt.

Owns: finding them, and saying what to do. Refuses: touching them: their node, or a person, ends them.
Rule: while one is here this node does not become ready, so it lifts no block under which that guest writes.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...core.domains import Domain, of_another
from ...core.state.cluster_state import ClusterState
from ...ports import Hypervisor, InUse
from .identity import Misconfigured


class HostOccupied(Misconfigured):
    """Somebody else's libvirt."""


async def refuse_occupied(hypervisor: Hypervisor, me: str) -> None:
    """Raise HostOccupied while another agent works on this libvirt, or another node's guest is here."""
    try:
        await hypervisor.acquire_host(me)
    except InUse as error:
        raise HostOccupied(str(error)) from None
    found = strangers(await hypervisor.domains(), me)
    if found:
        # Their own agent may come back for them: this one must not stand in its way.
        await hypervisor.release_host()
        raise HostOccupied(found[0])


def strangers(domains: Iterable[Domain], me: str) -> tuple[str, ...]:
    """What to say of each domain that is another node's."""
    return tuple(sorted(_text(domain, me) for domain in domains if of_another(domain, me)))


def _text(domain: Domain, me: str) -> str:
    node, uuid = domain.node, domain.uuid
    vm = f"{domain.project}/{domain.name}"
    return (
        f"the domain {uuid} here is the VM {vm} of node {node}, but this agent is that of {me}: it is ignored. "
        f"If this host was renamed: set name = {node} again, drain it (metastack node drain {node} "
        f"--wait), then rename it. If that VM runs on another node now: virsh destroy {uuid}, then virsh "
        f"undefine {uuid}"
    )


async def claimed_guests_run(hypervisor: Hypervisor, world: ClusterState, me: str) -> bool:
    """Whether a guest runs here under a claim of this node that no fence reached; raises Unavailable."""
    claims = {
        c.record.uuid: c.record for _, c in world.claims() if c.record is not None and c.record.node == me
    }
    through = world.fenced_through(me)
    return any(
        (claim := claims.get(domain.uuid)) is not None
        and claim.session > through
        and domain.active
        and not of_another(domain, me)
        for domain in await hypervisor.domains()
    )
