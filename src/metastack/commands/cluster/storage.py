"""Whose storage it is: the cluster's record of it, the storage's own mark, and how each comes to be.

Owns: writing ``config/storage`` and the mark, and what a person is told of both.
Refuses: guessing. A storage that bears another cluster's mark is taken only by a person who says so and why.
Rule: no agent writes either. The record names the storage that *this command* is connected to, so living nodes
that have another kind of storage forbid it.
"""

from __future__ import annotations

import uuid

import msgspec

from metastack.core.model import StorageIdentity, StoragePlace
from metastack.core.protocol.guards import unchanged
from metastack.core.state.cluster_state import ClusterState, Seen
from metastack.core.state.codec import encode
from metastack.core.state.fence_proof import differs
from metastack.core.state.keys import Kind
from metastack.core.transaction import Put
from metastack.ports import Exists, Refused, Storage, StorageOwner, Unavailable

from .. import names
from ..problem import Problem, conflict, from_storage
from ..reading import read_world
from ..request import Cluster, Plan, Request, Unchanged, commit
from .storage_views import OBJECT, StorageView, storage_view

NEEDED = (Kind.STORAGE, Kind.NODE_ALIVE, Kind.NODE_FACTS)
ADOPT = 'metastack cluster storage adopt --yes --reason "…"'


class StorageMatch(msgspec.Struct, kw_only=True):
    """What was found on both sides."""

    found: Seen[StorageIdentity] | None
    here: StoragePlace
    owner: StorageOwner | None
    owner_why: str = ""
    world: ClusterState

    @property
    def agreed(self) -> StorageIdentity | None:
        return self.found.record if self.found is not None else None


async def _meet(cluster: Cluster, storage: Storage) -> StorageMatch:
    world = await read_world(cluster, cluster.keys.prefixes(NEEDED))
    owner, why = None, ""
    try:
        here = await storage.identity() if storage.kind != "file" else StoragePlace(kind="file")
        try:
            owner = await storage.owner()
        except Refused as error:
            why = str(error)
    except (Unavailable, Refused) as error:
        raise from_storage(error, OBJECT) from error
    if owner is not None and here.kind == "file":
        here = StoragePlace(kind="file", fsid=owner.id)
    return StorageMatch(found=world.storage_identity(), here=here, owner=owner, owner_why=why, world=world)


async def look_at_storage(cluster: Cluster, storage: Storage) -> StorageView:
    """Both sides as they are."""
    met = await _meet(cluster, storage)
    return storage_view(met.found, met.here, met.owner, met.owner_why, cluster.keys.root)


async def init_storage(cluster: Cluster, request: Request, storage: Storage) -> StorageView:
    """Record which storage this cluster has, and mark that, where neither was done; once more does no harm."""
    return await _settle(cluster, request, storage, adopt=False)


def check_adopt_reason(reason: str) -> None:
    """Raise Problem for a bad or missing reason, before a person is asked anything."""
    names.needed_reason(reason, OBJECT, "adopting a storage")


async def adopt_storage(cluster: Cluster, request: Request, storage: Storage) -> StorageView:
    """Make this storage the cluster's, whatever the record and the mark say now."""
    check_adopt_reason(request.reason)
    return await _settle(cluster, request, storage, adopt=True)


async def _settle(cluster: Cluster, request: Request, storage: Storage, *, adopt: bool) -> StorageView:
    root, fresh = cluster.keys.root, str(uuid.uuid4())

    async def look() -> Plan[StorageIdentity] | Unchanged[StorageIdentity]:
        met = await _meet(cluster, storage)
        _refuse_others(met, adopt=adopt)
        if not adopt:
            _refuse_init(met, root)
        agreed, owner = met.agreed, met.owner
        here = met.here
        if here.kind == "file" and not here.fsid:
            # No mark yet: it gets the id that the record has, or a new one.
            here = StoragePlace(kind="file", fsid=agreed.fsid if agreed is not None and agreed.fsid else fresh)
        if agreed is not None and agreed.place == here:
            return Unchanged(agreed)
        record = StorageIdentity(
            kind=here.kind,
            fsid=here.fsid,
            pool=here.pool,
            pool_id=here.pool_id,
            cluster_id=_cluster_id(agreed, owner, root) or fresh,
            created=request.at,
            by=request.by,
            reason=request.reason,
            request_id=request.request_id,
        )
        told = ""
        if owner is not None and owner.cluster_id != record.cluster_id:
            told = f", replacing the mark of cluster {owner.cluster_id}"
        return Plan(
            guards=(unchanged(cluster.keys.storage(), met.found),),
            effects=(Put(cluster.keys.storage(), encode(record)),),
            what="cluster.storage_adopt" if adopt else "cluster.storage_init",
            object=OBJECT,
            message=f"{record.kind} {record.fsid} {record.pool}".strip() + told,
            answer=record,
        )

    agreed = await commit(cluster, request, look)
    try:
        await _mark(cluster, request, storage, agreed, adopt=adopt)
    except Problem as error:
        raise Problem(
            error.code,
            error.object,
            f"config/storage was written, but the storage was not marked: {error.message}",
            f"{error.hint}; then run this command again (until then, no restarted node with files is ready)",
        ) from error
    return await look_at_storage(cluster, storage)


def _cluster_id(agreed: StorageIdentity | None, owner: StorageOwner | None, root: str) -> str:
    """Kept where it can be: what was marked with it stays this cluster's. Empty: a new one.

    Where no record tells it (a backup of before ``init``, a new etcd), the storage's own mark does, if it names
    this root: a person says that this etcd is that one's successor.
    """
    if agreed is not None:
        return agreed.cluster_id
    return owner.cluster_id if owner is not None and owner.root == root else ""


async def _mark(
    cluster: Cluster, request: Request, storage: Storage, agreed: StorageIdentity, *, adopt: bool
) -> None:
    """Safety: after the record, so that it names a cluster that exists; over the mark that was looked at."""
    root = cluster.keys.root
    met = await _meet(cluster, storage)
    before = met.owner
    if before is not None and (before.cluster_id, before.root) == (agreed.cluster_id, root):
        return
    if before is not None and not adopt:
        raise conflict(OBJECT, _whose(before), f"if no other cluster uses it: {ADOPT}")
    new = StorageOwner(
        id=before.id if before is not None else (agreed.fsid if agreed.kind == "file" else str(uuid.uuid4())),
        cluster_id=agreed.cluster_id,
        root=root,
        at=request.at,
        by=request.by,
    )
    try:
        await storage.mark(new, before)
    except Exists as error:
        raise conflict(
            OBJECT, str(error), "another command has just marked it: `metastack cluster storage show`"
        ) from error
    except (Unavailable, Refused) as error:
        raise from_storage(error, OBJECT) from error


def _whose(owner: StorageOwner) -> str:
    return f"belongs to cluster {owner.cluster_id} (etcd root {owner.root}; marked by {owner.by}, {owner.at})"


def _refuse_init(met: StorageMatch, root: str) -> None:
    """Raise what only a person may decide."""
    agreed, owner = met.agreed, met.owner
    if met.owner_why:
        raise conflict(OBJECT, met.owner_why, "check that mark first: `metastack cluster storage show`")
    if met.found is not None and agreed is None:
        raise conflict(OBJECT, f"its record cannot be read: {met.found.why}", ADOPT)
    if owner is not None and (agreed is None or (owner.cluster_id, owner.root) != (agreed.cluster_id, root)):
        raise conflict(
            OBJECT,
            _whose(owner),
            f"choose another pool or folder; if this etcd replaces that cluster's: {ADOPT}",
        )
    marked = agreed is not None and not (agreed.kind == "file" and not met.here.fsid)
    if agreed is not None and marked and (why := differs(agreed.place, met.here)):
        raise conflict(
            OBJECT, f"is not the storage of this cluster: {why}", f"correct the context, or: {ADOPT}"
        )


def _refuse_others(met: StorageMatch, *, adopt: bool) -> None:
    """Living nodes that have another kind of storage would all have to leave their VMs.

    One of them is enough for ``init``: whether it or this command has the wrong settings nobody knows. A person
    who adopts says which; but not against most nodes.
    """
    kinds: dict[str, str] = {}
    for node in met.world.nodes():
        alive = met.world.alive(node)
        if alive is not None and alive.record is not None and alive.record.ready and alive.record.storage:
            kinds[node] = alive.record.storage
    other = {node: kind for node, kind in kinds.items() if kind != met.here.kind}
    if not other or (adopt and 2 * len(other) <= len(kinds)):
        return
    node, kind = next(iter(sorted(other.items())))
    whose = f"node {node}" if len(other) == 1 else f"{len(other)} of {len(kinds)} nodes, such as {node}"
    raise conflict(
        OBJECT,
        f"has kind {met.here.kind} in this context, but kind {kind} on {whose}",
        "use a context with the storage of the nodes (`metastack context list -o wide`), or correct "
        f"the settings of that node (`metastack node show {node}`)",
    )
