"""Fencing through Ceph's OSD blocklist: whole addresses, confirmed, for years.

Owns: blocklist entries of the form ``ADDRESS:0/0``. Refuses: calling anything fenced that the OSD map does
not carry. Rule: a receipt is made from one OSD map that both has an epoch and lists every address.

# Safety: an entry ``ADDRESS:0/0`` refuses every client of that address, also those that connect later. An OSD
# serves an operation only when its map is at least as new as the client's; the next owner connects after the
# receipt, so with a map of at least this epoch; so no object is read by the next owner and written by
# the fenced one afterwards.

Everything here blocks: it runs in the adapter's threads.
"""

from __future__ import annotations

import ipaddress

from msgspec import Struct

from metastack.ports import BadState, Denied, Unavailable

from .handle import Handle, host_of, plain

EXPIRE_S = 10 * 365 * 86400.0
"""Ceph's own default is an hour: after it a frozen node would write again."""


class Confirmed(Struct, frozen=True, kw_only=True):
    osd_epoch: int
    verified: str


def entry(address: str) -> str:
    """``10.0.0.1`` as ``10.0.0.1:0/0``; IPv6 in brackets."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        raise BadState(f"cannot fence {address!r}: not an IP address") from None
    return f"[{ip}]:0/0" if ip.version == 6 else f"{ip}:0/0"


def add(handle: Handle, addresses: tuple[str, ...]) -> Confirmed:
    if not addresses:
        raise BadState("cannot fence: no addresses are known")
    for item in map(entry, addresses):
        handle.command(
            f"blocking {item}", prefix="osd blocklist", blocklistop="add", addr=item, expire=EXPIRE_S
        )
    handle.wait_for_latest_osdmap()
    dump = handle.json("reading the OSD map", prefix="osd dump")
    carried = {plain(item) for item in dump["blocklist"]}
    if missing := [item for item in map(entry, addresses) if item not in carried]:
        raise Unavailable(
            f"not confirmed: OSD map {dump['epoch']} does not list {', '.join(missing)} ({handle.who})"
        )
    return Confirmed(
        osd_epoch=int(dump["epoch"]),
        verified=f"OSD map {dump['epoch']} of {handle.fsid} lists {', '.join(map(entry, addresses))}",
    )


def remove(handle: Handle, addresses: tuple[str, ...]) -> None:
    """Entries of whole addresses."""
    for item in map(entry, addresses):
        handle.command(f"unblocking {item}", prefix="osd blocklist", blocklistop="rm", addr=item)
    handle.wait_for_latest_osdmap()
    if still := blocked(handle, addresses):
        raise Unavailable(f"not confirmed: {', '.join(still)} are still blocked ({handle.who})")


def blocked(handle: Handle, addresses: tuple[str, ...]) -> tuple[str, ...]:
    listed = entries(handle)
    return tuple(address for address in addresses if entry(address) in listed)


def entries(handle: Handle) -> set[str]:
    """Every entry, of whole addresses and of single clients."""
    found = handle.json("reading the blocklist", prefix="osd blocklist ls")
    return {plain(item["addr"]) for item in found}


def shut_out(client: str, listed: set[str]) -> bool:
    """Whether a client (``10.0.0.1:0/123``) is refused, by itself or with its whole address."""
    host = host_of(client)
    return plain(client) in listed or bool(host and entry(host) in listed)


NOBODYS_ADDRESS = "192.0.2.1"
"""Of a range kept for documentation: no client ever has it, so blocking and unblocking it harm nobody."""


def rights(handle: Handle) -> tuple[str, ...]:
    """What this user may not do and should (block), or may and should not (unblock anyone), by trying.

    Whether it may lift its own block is not tried: asking is doing.
    """
    found = []
    who, item = handle.who, entry(NOBODYS_ADDRESS)
    try:
        handle.command("trying to block", prefix="osd blocklist", blocklistop="add", addr=item, expire=1.0)
    except Denied:
        found.append(f"may not block clients: it cannot fence lost nodes, so their VMs may stay down ({who})")
    try:
        handle.command("trying to unblock", prefix="osd blocklist", blocklistop="rm", addr=item)
        found.append(f"may lift every block: a mistake with it can give a disk two writers ({who})")
    except Denied:
        pass
    return tuple(found)


def unsettled(handle: Handle) -> str:
    """Which monitor may still hold a command of a dead client; empty when none does.

    Safety (CE7): a monitor that was frozen carries out what lies in its sockets when it thaws, also for clients
    that died long ago (tests/integration/safety). One that takes part in the quorum is not frozen, and has read
    what was sent to it before. One that does not may be dead, which harms nothing, or frozen: nobody can tell.
    """
    found = handle.json("asking for the quorum", prefix="quorum_status")
    names = {str(mon["name"]) for mon in found["monmap"]["mons"]}
    away = sorted(names - {str(name) for name in found["quorum_names"]})
    return f"monitor {', '.join(away)} takes no part in the quorum ({handle.who})" if away else ""
