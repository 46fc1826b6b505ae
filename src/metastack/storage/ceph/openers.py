"""Openers of an RBD image: found without leaving a trace, and evicted.

Owns: reading watchers and locks, and whether each of those clients is on the blocklist of the latest OSD map.
Refuses: calling a client shut out that the map does not list. Rule: a read-only open, which is no watcher.

# Safety: the map is waited for before the image is read. So an OSD that answers has a map at least as new: a
client that is listed by then sends nothing more that this read has not seen.

Everything here blocks: it runs in the adapter's threads.
"""

from __future__ import annotations

from typing import Final

import rbd

from metastack.ports import Broken, NotFound, Opener, Unavailable

from . import fence_addresses as ceph_fence
from .errors import mapped
from .fence_addresses import EXPIRE_S
from .handle import Handle, host_of, plain

AUTO: Final = "auto "
"""How the cookie of a lock begins that RBD takes by itself, and gives back on request."""
DEAD_EXPIRE_S: Final = 86_400.0
"""What a dead process sent arrives within minutes; a guest that crashes for ever must not fill the map."""


def openers(handle: Handle, name: str) -> tuple[Opener, ...]:
    handle.wait_for_latest_osdmap()
    try:
        with mapped(f"reading who has {name} open"), handle.image(name) as image:
            watching = {plain(str(watcher["addr"])) for watcher in image.watchers_list()}
            found = image.list_lockers()
    except NotFound:
        return ()
    locks = {plain(str(address)): str(cookie) for _, cookie, address in (found["lockers"] if found else ())}
    clients = (watching | set(locks)) - {plain(handle.address)}
    if not clients:
        return ()
    listed = ceph_fence.entries(handle)
    return tuple(
        Opener(
            client=client,
            address=host_of(client),
            watching=client in watching,
            locking=client in locks,
            by_hand=client in locks and not locks[client].startswith(AUTO),
            shut_out=ceph_fence.shut_out(client, listed),
        )
        for client in sorted(clients)
    )


def evict(handle: Handle, name: str, client: str, *, dead: bool) -> None:
    """Block this client, see that the map carries it, then break its locks on the image."""
    client = plain(client)
    if "/" not in client or client.endswith(":0/0") or client == plain(handle.address):
        raise Broken(f"cannot block {client!r}: it is not another single client")
    expire_s = DEAD_EXPIRE_S if dead else EXPIRE_S
    if client not in ceph_fence.entries(handle):
        handle.command(
            f"blocking {client}", prefix="osd blocklist", blocklistop="add", addr=client, expire=expire_s
        )
    handle.wait_for_latest_osdmap()
    if client not in ceph_fence.entries(handle):
        raise Unavailable(f"not confirmed: {client} is not on the blocklist ({handle.who})")
    try:
        with mapped(f"breaking the locks of {client} on {name}"), handle.image(name, read_only=False) as image:
            _break(image, client)
    except NotFound:
        return


def _break(image: rbd.Image, client: str) -> None:
    found = image.list_lockers()
    for owner, cookie, address in found["lockers"] if found else ():
        if plain(str(address)) == client:
            try:
                image.break_lock(owner, cookie)
            except rbd.ImageNotFound:
                pass  # it was broken meanwhile
