"""Console tickets: the right to open one console of one VM once.

Owns: ``tickets/<hash>``. Refuses: a VM that does not run anywhere.
Rule: a ticket is 192 random bits, its key is their hash. The record is bound to the VM's UUID and its node, and
lives 30 s on a lease of its own. The agent consumes it by a guarded delete: a later reader finds nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from typing import Final

from msgspec import Struct

from metastack.core.model import Claim, Event, NodeAlive, Ticket, VmId, VmSpec
from metastack.core.state.cluster_state import Seen
from metastack.core.state.codec import Unreadable, decode, encode
from metastack.core.state.keys import Kind
from metastack.core.transaction import Put

from ..problem import Problem, conflict, not_found
from ..request import Cluster, Plan, Request, commit, readable
from .change import label_of

TICKET_S: Final = 30
OPENED: Final = "vm.console"
CLOCKS_MS: Final = 600_000
"""How far other machines' clocks may be from this one's and their events still be found."""
DAY_MS: Final = 86_400_000
"""A console that was open for longer is not told who took it over."""


class ConsoleEndpoint(Struct, frozen=True, kw_only=True):
    """Where to take a ticket."""

    ticket: str
    node: str
    address: str
    """``host:port`` of the node's console endpoint, an IPv6 address in brackets."""
    at_ms: int = 0
    """When it was asked for ..."""
    request_id: str = ""
    """... and by which request: who asked after it took the console over."""


async def create_ticket(cluster: Cluster, request: Request, vm: VmId, kind: str = "serial") -> ConsoleEndpoint:
    """A ticket for the console of a VM that a living node owns."""
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
        raise conflict(object, f"node {held.node} offers no console", "upgrade its agent")
    lease = await cluster.store.grant(TICKET_S)
    # An agent of the release before looks for the ticket itself, and finds no hash of it.
    key = keys.ticket(ident) if alive.record_version else keys.ticket_as_told(ident)
    record = Ticket(project=vm.project, vm=vm.name, uuid=spec.uuid, node=held.node, kind=kind, by=request.by)

    async def look() -> Plan[ConsoleEndpoint]:
        return Plan(
            guards=(),
            effects=(Put(key, encode(record), leased=True),),
            what=OPENED,
            object=object,
            message=f"{kind} on {held.node}",
            answer=ConsoleEndpoint(
                ticket=ident,
                node=held.node,
                address=alive.console,
                at_ms=request.at_ms,
                request_id=request.request_id,
            ),
            lease=lease.id,
        )

    return await commit(cluster, request, look)


def _held(claim: Seen[Claim] | None, object: str) -> Claim | None:
    return None if claim is None else readable(claim, object)


def _not_running(vm: VmId, why: str) -> Problem:
    return conflict(
        label_of(vm), why, f"`metastack vm start {vm}`, or `metastack vm show {vm}` shows the reason"
    )


async def opened_after(cluster: Cluster, vm: VmId, opening: ConsoleEndpoint) -> str:
    """The user who asked for this VM's console after ``opening``, and so took it over; empty: none."""
    keys, prefix = cluster.keys, cluster.keys.prefix(Kind.EVENT)
    early, late = (f"{max(0, opening.at_ms + skew):014d}" for skew in (-CLOCKS_MS, DAY_MS + CLOCKS_MS))
    shared = next((n for n in range(len(early)) if early[n] != late[n]), len(early))
    snapshot = await cluster.store.list(prefix + early[:shared])
    mine = keys.event(opening.at_ms, opening.request_id)
    since = max((entry.mod_revision for entry in snapshot.entries if entry.key == mine), default=None)
    if since is None:
        return ""
    by = ""
    for entry in sorted(snapshot.entries, key=lambda entry: entry.mod_revision):
        with suppress(Unreadable):
            event = decode(Event, entry.value, entry.key)
            if entry.mod_revision > since and event.what == OPENED and event.object == label_of(vm):
                by = event.by or "somebody"
    return by
