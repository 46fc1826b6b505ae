"""The mark of a pool's or folder's owner, as bytes: the same in every backend.

Owns: its name and its text. Refuses: a mark that it cannot read, which belongs to somebody all the same.
"""

from __future__ import annotations

from typing import Final

import msgspec

from metastack.ports import Refused, StorageOwner

NAME: Final = "metastack_owner"
"""Of the object in the pool, and of the file in the folder."""
MOST_BYTES: Final = 4096


def encoded(owner: StorageOwner) -> bytes:
    return msgspec.json.encode(owner) + b"\n"


def decoded(raw: bytes, where: str) -> StorageOwner:
    """Raises Refused for what is no mark."""
    try:
        return msgspec.json.decode(raw, type=StorageOwner)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(
            f"{where} names the owner of this storage but is unreadable ({error}): check it, remove it only "
            "if no other cluster uses this storage"
        ) from None
