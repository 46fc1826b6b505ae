"""Ownership of an object in the storage: the mark that it bears, and what may be done with it.

Owns: the shape of a mark, and the one judgement of it. Refuses: names. An object of any name may be anybody's.
Rule: a mark counts on the object that it was written for alone. Copies and clones carry the text of the mark
along (``rbd cp`` and ``rbd clone`` copy metadata), but not the object's own id.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from .errors import NotOurs


class Mark(Struct, frozen=True, kw_only=True):
    """What is written on an object, and what a caller expects there."""

    cluster: str
    """Id of the cluster (``config/storage``); empty: it has none yet, and writes no marks."""
    kind: str
    """``disk`` or ``image``."""
    record: str
    """UUID of the record that names the object."""


UNMARKED: Final = Mark(cluster="", kind="", record="")
"""Of a caller without a cluster: it writes no mark, and touches nothing that bears one."""


class Standing(StrEnum):
    """What an object is to a caller."""

    OURS = "ours"
    """It bears this very mark, written for itself."""
    NONE = "none"
    """It bears no mark."""
    COPY = "copy"
    """It bears a mark that was written for another object."""
    OTHER = "other"
    """It bears a mark of its own, and not this one."""


class Found(Struct, frozen=True, kw_only=True):
    """The mark on an object, and the id of the object that it was written for."""

    v: int = 1
    cluster: str
    kind: str
    record: str
    ident: str


def written(mark: Mark, ident: str) -> bytes:
    """The text of a mark for that object."""
    return msgspec.json.encode(Found(cluster=mark.cluster, kind=mark.kind, record=mark.record, ident=ident))


def parsed(text: bytes | str | None) -> Found | None:
    """The mark in a text; None: there is none. One that cannot be read is nobody's."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Found)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Found(cluster="a text that cannot be read", kind="", record="", ident="")


def same_object(one: str, other: str) -> bool:
    """Whether two ids are of one object.

    A file's is ``INODE-BIRTH``, with a birth of 0 where the file system does not tell it. That depends on the
    host's kernel and on how it mounts the folder, so then the inode alone counts.
    """
    if one == other:
        return True
    (inode, dash, birth), (other_inode, other_dash, other_birth) = one.partition("-"), other.partition("-")
    return bool(dash and other_dash) and inode == other_inode and "0" in (birth, other_birth)


def standing(found: Found | None, ident: str, mark: Mark) -> Standing:
    """What an object of that id, with that mark, is to whoever expects this one."""
    if found is None:
        return Standing.NONE
    if found.ident and not same_object(found.ident, ident):
        return Standing.COPY
    same = (found.cluster, found.kind, found.record) == (mark.cluster, mark.kind, mark.record)
    return Standing.OURS if same and mark.cluster else Standing.OTHER


def refuse_to_remove(name: str, found: Found | None, ident: str, mark: Mark, unmarked: bool) -> None:
    """Raise NotOurs unless this object is the caller's to remove.

    ``unmarked``: also one without a mark; of before marks, and named by a record.
    """
    match standing(found, ident, mark):
        case Standing.OURS:
            return
        case Standing.NONE if unmarked or not mark.cluster:
            return
        case Standing.NONE:
            raise NotOurs(f"{name} bears no mark of this cluster: it is not removed; remove it by hand")
        case Standing.COPY if unmarked and found is not None and (found.kind, mark.kind) == ("image", "disk"):
            return  # it was cloned from its image, which gave it that text, and then its maker died
        case Standing.COPY:
            raise NotOurs(f"{name} is a copy that was made by hand: it is not removed; remove it by hand")
        case Standing.OTHER:
            assert found is not None
            raise NotOurs(f"{name} is not this cluster's to remove: {told(found)}")


def refuse_to_use(name: str, found: Found | None, ident: str, mark: Mark) -> bool:
    """Whether it still has to be marked; raises NotOurs when it is somebody else's for certain."""
    match standing(found, ident, mark):
        case Standing.OURS:
            return False
        case Standing.OTHER:
            assert found is not None
            raise NotOurs(f"{name} is not this VM's: {told(found)}; give it back its name, then start the VM")
        case _:
            return bool(mark.cluster)


def told(found: Found) -> str:
    """A mark in words."""
    what = f"it is the {found.kind} {found.record}" if found.kind else "its mark is unknown"
    return f"{what} of cluster {found.cluster}"
