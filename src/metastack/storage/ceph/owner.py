"""The mark of a pool's owner: one object, created exclusively.

Owns: reading and putting it. Refuses: replacing any mark but the one that it was shown.
Rule: creating and replacing are one operation of the OSD each, with its own compare: nobody is raced.

The rights that nodes and management users have anyway (``profile rbd``) include it: they may read and write
every object of their pool.

Everything here blocks: it runs in the adapter's threads.
"""

from __future__ import annotations

import rados

from metastack.ports import Exists, StorageOwner

from ..owner_mark import MOST_BYTES, NAME, decoded, encoded
from .errors import mapped
from .handle import Handle


def read(handle: Handle) -> StorageOwner | None:
    with mapped(f"reading whose pool {handle.place.pool} is ({handle.who})"):
        try:
            raw = handle.ioctx.read(NAME, MOST_BYTES)
        except rados.ObjectNotFound:
            return None
    return decoded(bytes(raw), f"the object {NAME} in pool {handle.place.pool}")


def write(handle: Handle, owner: StorageOwner, before: StorageOwner | None) -> None:
    changed = Exists(f"pool {handle.place.pool}: its mark changed during the check: try again")
    what = f"marking pool {handle.place.pool} ({handle.who})"
    with rados.WriteOpCtx() as op, mapped(what):
        if before is None:
            op.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
        else:
            op.cmpext(encoded(before), 0)
        op.write_full(encoded(owner))
        try:
            handle.ioctx.operate_write_op(op, NAME)
        except rados.ObjectExists:
            raise changed from None
        except rados.Error as error:
            if abs(error.errno or 0) >= _DIFFERS or isinstance(error, rados.ObjectNotFound):
                raise changed from None
            raise


_DIFFERS = 4095
"""From this errno on it tells at which byte a compare failed."""
