"""Whether a takeover may build on a fence: made in this cluster's storage, or overtaken by the victim's return.

Owns: what a receipt must say. Refuses: asking the storage (agent/fencing/fence_check).
Rule: a fence counts only in the storage that it was made in. Where the cluster says which that is, a receipt
must name just that one. Where it does not (``config/storage`` is of a later version), a receipt must not name
another than the node's own. QEMU's lock on files proves nothing about a client of a pool. While an upgrade is
not finished, a receipt that names none is judged like that, too.

# Safety: seen before this was asked for: a node whose agent was set to files closed a fence "by image-lock".
Another one believed it and started the VM from the pool, and two guests wrote for 11.7 s.
"""

from __future__ import annotations

from typing import Final

from ..model import Fence, NodeFacts, StorageIdentity, StoragePlace
from .seen import Seen

FILE: Final = "file"
UNBLOCKED: Final = "unblocked"
"""Method of a receipt that says: a person vouched that the host is gone (``node unfence``)."""
IMAGE_LOCK: Final = "image-lock"
"""Method of a receipt of files: nothing was blocked, QEMU's lock on each disk refuses a second writer."""


def differs(agreed: StoragePlace, here: StoragePlace) -> str:
    """In which field a node's storage is not the cluster's, and how; empty: in none."""
    for field in ("kind", "fsid", "pool", "pool_id"):
        theirs, mine = getattr(agreed, field), getattr(here, field)
        if theirs != mine:
            return f"{field} is {mine or '(none)'} here and {theirs or '(none)'} in config/storage"
    return ""


def discounted(
    fence: Fence,
    victim: NodeFacts | None,
    agreed: Seen[StorageIdentity] | None,
    here: StoragePlace | None,
    mixed: bool = False,
) -> str:
    """Why nothing may be built on that fence; empty: it counts. ``here``: what this node is connected to.

    ``mixed``: an upgrade is not finished, so the fencer may be of a release that does not say which storage.
    """
    receipt = fence.receipt
    if agreed is not None and agreed.record is None:
        return f"the record of the cluster's storage cannot be read: {agreed.why}"
    if receipt is None:
        return "" if agreed is None else "the record of the fence has no receipt"
    if receipt.method == UNBLOCKED:
        return ""  # a person vouched that the host is gone
    if receipt.method == IMAGE_LOCK and is_client(victim):
        return f"{IMAGE_LOCK} blocks no client, and the storage of that node supports a remote fence"
    place = agreed.record.place if agreed is not None and agreed.record is not None else here
    if place is None:
        return ""
    made = receipt.storage
    if made is None and agreed is not None and not mixed:
        return "its receipt does not name the storage of the fence"
    if made is not None and _told(made) != _told(place):
        return f"the fence was made in another storage: {_shown(made)}, not {_shown(place)}"
    if receipt.method == IMAGE_LOCK and place.kind != FILE:
        return f"{IMAGE_LOCK} blocks no client in a storage of kind {place.kind}"
    return ""


def is_client(victim: NodeFacts | None) -> bool:
    """It told which client of its storage it is: files have none."""
    return victim is not None and bool(victim.storage_clients)


def _told(place: StoragePlace) -> tuple[str, str, int]:
    """Without the name, which somebody may have changed."""
    return place.kind, place.fsid, place.pool_id


def _shown(place: StoragePlace) -> str:
    where = f" (pool {place.pool}, {place.pool_id})" if place.pool else ""
    return f"{place.kind} {place.fsid or '(unmarked)'}{where}"
