"""Which storage a cluster has and whose mark that bears, as a person sees it.

Owns: that view and its words. Refuses: writing (:mod:`metastack.commands.cluster.storage`).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from metastack.core.model import StorageIdentity, StoragePlace
from metastack.core.state.cluster_state import Seen
from metastack.core.state.fence_proof import differs
from metastack.ports import StorageOwner

OBJECT: Final = "storage"
INIT: Final = "metastack cluster storage init"
ADOPT: Final = "metastack cluster storage adopt"


class StorageView(Struct, kw_only=True):
    """Both sides."""

    state: str
    """``ok``, ``unnamed`` (no record), ``unmarked``, ``differs``, ``another's`` or ``broken``."""
    trouble: str | None = None
    cluster_id: str | None = None
    """This cluster's own id, as its etcd has it."""
    kind: str | None = None
    fsid: str | None = None
    pool: str | None = None
    pool_id: int | None = None
    root: str
    """Where in etcd this cluster's keys are."""
    here: str
    """What this command is connected to."""
    owner_cluster_id: str | None = None
    owner_root: str | None = None
    owner_by: str | None = None
    owner_at: str | None = None
    created: str | None = None
    by: str | None = None
    reason: str | None = None


def storage_view(
    found: Seen[StorageIdentity] | None,
    here: StoragePlace,
    owner: StorageOwner | None,
    owner_why: str,
    root: str,
) -> StorageView:
    view = StorageView(state="ok", root=root, here=shown(here))
    agreed = found.record if found is not None else None
    if agreed is not None:
        view.cluster_id, view.kind, view.fsid = agreed.cluster_id, agreed.kind, agreed.fsid or None
        view.pool, view.pool_id = agreed.pool or None, agreed.pool_id or None
        view.created, view.by = agreed.created or None, agreed.by or None
        view.reason = agreed.reason or None
    if owner is not None:
        view.owner_cluster_id, view.owner_root = owner.cluster_id, owner.root
        view.owner_by, view.owner_at = owner.by or None, owner.at or None
    view.state, view.trouble = verdict(found, here, owner, owner_why, root)
    return view


def verdict(
    found: Seen[StorageIdentity] | None,
    here: StoragePlace,
    owner: StorageOwner | None,
    owner_why: str,
    root: str,
) -> tuple[str, str | None]:
    """In which state both sides are, and what is wrong."""
    agreed = found.record if found is not None else None
    if found is not None and agreed is None:
        return "broken", f"config/storage cannot be read: {found.why}"
    if owner_why:
        return "broken", owner_why
    if owner is not None and (agreed is None or (owner.cluster_id, owner.root) != (agreed.cluster_id, root)):
        mine = (
            f"this is cluster {agreed.cluster_id} (etcd root {root})"
            if agreed
            else "this etcd names no cluster"
        )
        return (
            "another's",
            f"the storage belongs to cluster {owner.cluster_id} (etcd root {owner.root}), but {mine}",
        )
    if agreed is None:
        return "unnamed", "this cluster has no recorded storage: a node with another storage is not detected"
    if owner is None:
        return "unmarked", "the storage is not marked as this cluster's: another cluster may use it"
    if why := differs(agreed.place, here):
        return "differs", f"the storage of this context is not the storage of the cluster: {why}"
    return "ok", None


def shown(place: StoragePlace) -> str:
    where = f" pool {place.pool} ({place.pool_id})" if place.pool else ""
    return f"{place.kind} {place.fsid or '(unmarked)'}{where}"
