"""Console tickets: the right to open one console of one VM once.

Owns: ``tickets/<id>``. Refuses: a VM that does not run anywhere.
Rule: the id is 192 random bits, the record is bound to the VM's UUID and its node, lives 30 s on a lease of
its own, and the agent consumes it by a guarded delete: whoever reads it later finds nothing.
"""

from __future__ import annotations

import asyncio
import secrets

from msgspec import Struct

from metastack.core.change import Put
from metastack.core.codec import encode
from metastack.core.model import Claim, NodeAlive, Ticket, VmId, VmSpec
from metastack.core.world import Seen

from .deed import Cluster, Deed, Plan, commit, readable
from .problem import Problem, conflict, not_found
from .vms import label_of

TICKET_S = 30


class Opening(Struct, frozen=True, kw_only=True):
    """Where to take a ticket."""

    ticket: str
    node: str
    address: str
    """``host:port`` of the node's console endpoint."""


async def create_ticket(cluster: Cluster, deed: Deed, vm: VmId, kind: str = "serial") -> Opening:
    """A ticket for the console of a VM that a living node answers for."""
    keys, object, ident = cluster.keys, label_of(vm), secrets.token_hex(24)
    spec_seen, claim = await asyncio.gather(
        cluster.read(VmSpec, keys.vm_spec(vm)), cluster.read(Claim, keys.claim(vm))
    )
    if spec_seen is None:
        raise not_found(object, "`metastack vm list` shows the VMs")
    spec, held = readable(spec_seen, object), _held(claim, object)
    if held is None or held.uuid != spec.uuid:
        raise _not_running(vm, "no node runs it")
    alive_seen = await cluster.read(NodeAlive, keys.node_alive(held.node))
    if alive_seen is None:
        raise conflict(object, f"its node {held.node} is lost", f"`metastack vm wait {vm} --for running`")
    alive = readable(alive_seen, f"node {held.node}")
    if not alive.console:
        raise conflict(object, f"node {held.node} offers no console", "is its agent up to date?")
    lease = await cluster.store.grant(TICKET_S)
    record = Ticket(project=vm.project, vm=vm.name, uuid=spec.uuid, node=held.node, kind=kind, by=deed.by)

    async def look() -> Plan[Opening]:
        return Plan(
            guards=(),
            effects=(Put(keys.ticket(ident), encode(record), leased=True),),
            what="vm.console",
            object=object,
            message=f"{kind} on {held.node}",
            answer=Opening(ticket=ident, node=held.node, address=alive.console),
            lease=lease.id,
        )

    return await commit(cluster, deed, look)


def _held(claim: Seen[Claim] | None, object: str) -> Claim | None:
    return None if claim is None else readable(claim, object)


def _not_running(vm: VmId, why: str) -> Problem:
    return conflict(label_of(vm), why, f"`metastack vm start {vm}`, or `metastack vm show {vm}` says why")
