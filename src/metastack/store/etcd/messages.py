"""Conversion between the port's data and etcd's messages: pure functions.

Owns: keys as bytes, the end of a prefix, transactions, entries and events.
Refuses: changes that etcd would refuse anyway: they are our bugs and never leave the process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from aetcd import rpc

from metastack.core.transaction import Delete, Entry, Guard, KeyEvent, Put, Transaction
from metastack.ports import Broken

from .limits import check

_TARGETS: Final[dict[str, tuple[Any, str]]] = {
    "mod": (rpc.Compare.MOD, "mod_revision"),
    "create": (rpc.Compare.CREATE, "create_revision"),
    "version": (rpc.Compare.VERSION, "version"),
    "lease": (rpc.Compare.LEASE, "lease"),
}


_DELETED: Final = rpc.Event.DELETE


def key_of(key: str) -> bytes:
    """A key as etcd takes it; an empty one would mean something else to it."""
    if not key:
        raise Broken("an empty key")
    return key.encode()


def txn_of(change: Transaction) -> Any:
    """The change as one TxnRequest; raises Broken."""
    check(change)
    return rpc.TxnRequest(
        compare=[_compare(guard) for guard in change.guards],
        success=[_operation(effect, change.lease) for effect in change.effects],
    )


def _text(key: bytes) -> str:
    # A key of no text is not ours; it must not end the watch that delivers it.
    return key.decode(errors="replace")


def entry_of(kv: Any) -> Entry:
    return Entry(_text(kv.key), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def events_of(events: Iterable[Any], without: tuple[bytes, ...] = ()) -> list[KeyEvent]:
    """Events of a message, but for those of keys that begin so."""
    found = []
    for event in events:
        # Each field of a message is made again whenever it is asked for.
        kv = event.kv
        if (raw := kv.key).startswith(without):
            continue
        key, mod, entry = _text(raw), kv.mod_revision, None
        if event.type != _DELETED:
            entry = Entry(key, kv.value, kv.create_revision, mod, kv.version, kv.lease)
        found.append(KeyEvent(key, mod, entry))
    return found


def _compare(guard: Guard) -> Any:
    target, field = _TARGETS[guard.field]
    return rpc.Compare(result=rpc.Compare.EQUAL, target=target, key=key_of(guard.key), **{field: guard.value})


def _operation(effect: Put | Delete, lease: int) -> Any:
    if isinstance(effect, Put):
        put = rpc.PutRequest(key=key_of(effect.key), value=effect.value, lease=lease if effect.leased else 0)
        return rpc.RequestOp(request_put=put)
    delete = rpc.DeleteRangeRequest(key=key_of(effect.key), range_end=effect.range_end.encode())
    return rpc.RequestOp(request_delete_range=delete)
