"""etcd's limits on a request: checked here, before it is sent.

Owns: the size and the shape of a transaction. Refuses: by raising Broken, because it is a bug of ours.
Rule: nothing passes that etcd would refuse, so an InvalidArgument from it is never an expected answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from metastack.core.transaction import MAX_OPERATIONS, Delete, Put, Transaction
from metastack.ports import Broken


def check(change: Transaction) -> None:
    """Raise Broken for a change that no etcd takes."""
    for what, count in (("guards", len(change.guards)), ("effects", len(change.effects))):
        if count > MAX_OPERATIONS:
            raise Broken(f"{change.name}: {count} {what}, etcd takes at most {MAX_OPERATIONS}")
    if not all(guard.key for guard in change.guards) or not all(effect.key for effect in change.effects):
        raise Broken(f"{change.name}: an empty key")
    puts = [effect for effect in change.effects if isinstance(effect, Put)]
    if not change.lease and any(put.leased for put in puts):
        raise Broken(f"{change.name}: a leased put without a lease")
    written = sorted(put.key for put in puts)
    for key, following in pairwise(written):
        if key == following:
            raise Broken(f"{change.name}: {key} is written twice")
    for effect in change.effects:
        if isinstance(effect, Delete):
            for key in written:
                if covers(effect, key):
                    raise Broken(f"{change.name}: {key} is both written and deleted")


def covers(delete: Delete, key: str) -> bool:
    """Whether a delete takes this key."""
    if not delete.range_end:
        return key == delete.key
    return delete.key <= key and (delete.range_end == "\0" or key < delete.range_end)


def named(prefixes: Sequence[str]) -> str:
    """Some prefixes, as an error says them."""
    return prefixes[0] if len(prefixes) == 1 else f"{prefixes[0]} and more"
