"""Fencing on Ceph where nodes share an address: single clients, and the rights of a node's guests.

Owns: finding the clients of a node, blocking each, taking its guests' user the rights and giving them back.
Refuses: calling it done while any client that is not blocked has one of the node's disks open.
Rule: rights first, then who is there, then blocks, and then a look that finds nobody new.

# Safety: an entry ``ADDRESS:PORT/NONCE`` refuses that one client and says nothing about the next. What keeps
new ones out is that the guests' user has no rights left: a client that asks the monitors after that gets a
ticket that opens nothing. A client that had its ticket before and had not opened its disk yet is neither seen
nor refused, until the ticket ends (``auth_service_ticket_ttl``, an hour by default). That is the hole of this
form, or a part of it where guests have no user of their own: then every guest that a frozen host starts later
is such a client. docs/internals/safety.md has the measurements.

Everything here blocks: it runs in the adapter's threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from metastack.ports import BadState, Clients, Denied, NotFound, Unavailable

from . import fence_addresses as ceph_fence
from .fence_addresses import EXPIRE_S, Confirmed
from .handle import Handle, plain
from .images import DISK, openers
from .rights import NO_RIGHTS, Rights, flat, guest_rights

log = structlog.get_logger()

ROUNDS: Final = 5
"""A dead node has no new clients; one that is alive and starts guests would be followed for ever."""
BLOCKS_AT_ONCE: Final = 16
"""Commands to the monitors at one time: each waits for a change of the map, a second at Ceph's defaults."""


def fence(handle: Handle, clients: Clients) -> tuple[Confirmed, tuple[str, ...]]:
    """Shut them out; what was confirmed, and every client that was blocked."""
    if not clients.declared:
        raise BadState("cannot fence single clients: none is declared")
    # Its agent first: a fence that ends in the middle is then seen by the node itself.
    done = set(map(plain, clients.declared))
    _block(handle, done)
    if clients.guest_user:
        _set_rights(handle, clients.guest_user, NO_RIGHTS)
    spared = {plain(client) for client in clients.spared} | {plain(handle.address)}
    for _ in range(ROUNDS):
        handle.wait_for_latest_osdmap()
        found = {client for disk in clients.disks for client in _openers(handle, disk)} - spared
        # Safety: not only those that are not in ``done``: an entry that somebody lifted counts as missing.
        fresh = found - ceph_fence.entries(handle)
        if not fresh:
            return _confirmed(handle, done, clients), tuple(sorted(done))
        _block(handle, fresh)
        done |= fresh
    raise Unavailable(f"not confirmed: after {ROUNDS} rounds new clients still open its disks ({handle.who})")


def _openers(handle: Handle, disk: str) -> set[str]:
    try:
        return openers(handle, DISK + disk)
    except NotFound:
        return set()  # claimed, and not made yet


def _block(handle: Handle, clients: set[str]) -> None:
    def block(client: str) -> None:
        handle.command(
            f"blocking {client}", prefix="osd blocklist", blocklistop="add", addr=client, expire=EXPIRE_S
        )

    if any(client.endswith(":0/0") for client in clients):
        raise BadState(f"{', '.join(sorted(clients))}: one is a whole address")
    # Ends before it returns, whatever one of them raises: this call is counted, so these are.
    with ThreadPoolExecutor(BLOCKS_AT_ONCE, thread_name_prefix="storage-block") as pool:
        for each in [pool.submit(block, client) for client in sorted(clients)]:
            each.result()


def _confirmed(handle: Handle, done: set[str], clients: Clients) -> Confirmed:
    dump = handle.json("reading the OSD map", prefix="osd dump")
    carried = {plain(item) for item in dump["blocklist"]}
    if missing := sorted(done - carried):
        raise Unavailable(
            f"not confirmed: OSD map {dump['epoch']} does not list {', '.join(missing)} ({handle.who})"
        )
    new = (
        f"client.{clients.guest_user} has lost its rights, so no new client opens a disk once its ticket ends"
        if clients.guest_user
        else "NEW CLIENTS ARE NOT REFUSED: its guests have no cephx user of their own"
    )
    return Confirmed(
        osd_epoch=int(dump["epoch"]),
        verified=f"OSD map {dump['epoch']} of {handle.fsid} lists all {len(done)} clients, and no other has "
        f"one of its {len(clients.disks)} disks open; {new}",
    )


def _set_rights(handle: Handle, user: str, rights: Rights) -> None:
    handle.command(
        f"setting the rights of client.{user}",
        prefix="auth caps",
        entity=f"client.{user}",
        caps=flat(rights),
    )


def has_rights(handle: Handle, user: str) -> bool:
    """Whether a fence has not taken them. Needs the right to read that one user."""
    what = f"reading the rights of client.{user}"
    found = handle.json(what, prefix="auth get", entity=f"client.{user}")
    return bool(found[0]["caps"] != NO_RIGHTS)


def give_back(handle: Handle, user: str, pool: str) -> None:
    _set_rights(handle, user, guest_rights(pool))
    if not has_rights(handle, user):
        raise Unavailable(f"not confirmed: client.{user} still has no rights ({handle.who})")


def lift(handle: Handle, clients: tuple[str, ...]) -> None:
    """Tidy up after clients that are dead for sure. What may not be lifted stays, and harms no other client."""
    for client in clients:
        try:
            handle.command(f"unblocking {client}", prefix="osd blocklist", blocklistop="rm", addr=plain(client))
        except Denied as error:
            log.info("blocklist_entry_left", client=client, why=str(error))
