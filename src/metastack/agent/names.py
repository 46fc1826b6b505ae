"""Under which names the storage knows this node: addresses, its agent's clients, its guests' user.

Owns: what is declared of them in ``nodes/<node>``, and asking whether any of them is shut out.
Refuses: lifting anything. Rule: a name is declared before it is used: a fencer blocks what is declared.
"""

from __future__ import annotations

from typing import Final

from ..core.model import NodeFacts
from ..ports import Storage

CLIENTS_KEPT: Final = 8


async def shut_out(storage: Storage, addresses: tuple[str, ...], known: NodeFacts | None) -> tuple[str, ...]:
    """Which of this node's names the storage refuses right now."""
    if not addresses:
        return ()
    clients = known.storage_clients if known is not None else ()
    guests = (f"client.{storage.guest_user}",) if storage.guest_user else ()
    return await storage.blocked((*addresses, *clients, *guests))


async def declared(
    storage: Storage, addresses: tuple[str, ...], known: NodeFacts | None, fresh: NodeFacts, *, anew: bool
) -> NodeFacts:
    """What ``nodes/<node>`` must hold; ``fresh`` gives what is not of the storage.

    The last few clients are kept: a fencer that comes late may know only an older one, and what it blocks then
    must be seen here. ``anew``: none of them can be alive, and none matters any more.
    """
    mine = await storage.own_client() if addresses else ""
    before = known.storage_clients if known is not None and not anew else ()
    return NodeFacts(
        name=fresh.name,
        uuid=fresh.uuid,
        storage_addresses=tuple(
            dict.fromkeys((*(known.storage_addresses if known is not None else ()), *addresses))
        ),
        storage_clients=(*(c for c in before if c != mine), *((mine,) if mine else ()))[-CLIENTS_KEPT:],
        storage_guest_user=storage.guest_user,
        joined=known.joined if known is not None else fresh.joined,
    )
