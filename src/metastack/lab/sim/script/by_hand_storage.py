"""Verbs about whose storage it is and what somebody does to its blocklist, for scenarios.

Owns: these verbs. Refuses: being counted, as with all that is done by hand (:mod:`.by_hand`).
"""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec

from ....core.model import StorageIdentity
from ....core.state.codec import decode
from ..engine.lab import Lab
from ..engine.rbd import RbdPool
from .verbs import FAULTS, Undo, fault, host_of, nothing

_BEFORE: Final = frozenset(FAULTS)
ELSEWHERE: Final = "88888888-0000-4000-8000-000000000000"


@fault("set-to-files", "node", lasts=True)
def _set_to_files(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A person writes ``kind = "file"`` into a node's settings and restarts its agent; at the end as before."""
    host = host_of(lab, args)

    def be(pool: RbdPool | None) -> None:
        host.files = pool
        if host.crash():
            host.start()

    be(RbdPool())
    return partial(be, None)


@fault("block-lifted", "node")
def _block_lifted(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """``ceph osd blocklist rm`` by hand, while nobody has made sure of that machine."""
    host = host_of(lab, args)
    names = {host.seen, *(name for name in lab.pool.blocked if name.startswith(f"{host.seen}:"))}
    if not names & lab.pool.blocked:
        return None
    lab.pool.blocked -= names
    lab.pool.osd_epoch += 1
    return nothing


@fault("storage-forgotten", "cluster", lasts=True)
def _storage_forgotten(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A cluster of before ``config/storage``: neither the record nor the mark is there."""
    entry, owner = lab.cluster.get(lab.keys.storage()), lab.pool.owner
    if entry is None:
        return None
    lab.delete(lab.keys.storage())
    lab.pool.owner = None

    def back() -> None:
        lab.put(lab.keys.storage(), decode(StorageIdentity, entry.value))
        lab.pool.owner = owner

    return back


@fault("storage-adopted", "cluster", lasts=True)
def _storage_adopted(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A person has the cluster adopt another storage than its agents have; at the end the right one again."""
    entry = lab.cluster.get(lab.keys.storage())
    if entry is None:
        return None
    before = decode(StorageIdentity, entry.value)
    lab.put(lab.keys.storage(), msgspec.structs.replace(before, fsid=ELSEWHERE))
    return partial(lab.put, lab.keys.storage(), before)


@fault("marked-by-another", "cluster", lasts=True)
def _marked_by_another(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Another cluster adopts the pool of this one; at the end it is given back."""
    owner = lab.pool.owner
    if owner is None:
        return None
    lab.pool.owner = msgspec.structs.replace(owner, cluster_id=ELSEWHERE)

    def back() -> None:
        lab.pool.owner = owner

    return back


STORAGE: Final = frozenset(FAULTS) - _BEFORE
"""Verbs that coverage does not count."""
