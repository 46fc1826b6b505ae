"""Errors of librados and librbd, as the ports' error families.

Owns: the one mapping from errno to family. Refuses: swallowing anything it does not know.
Rule: every message says what was done, to which object, what went wrong and what to do about it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import rados
import rbd

from metastack.ports import (
    BadState,
    Denied,
    Exists,
    Fenced,
    InUse,
    LocalTrouble,
    NoSpace,
    NotFound,
    Unavailable,
)

_STATE = (
    "Ceph does not do this with it in its state: see `rbd info` and `rbd snap ls --all` of the pool's images"
)

_HINTS: dict[int, tuple[type[Exception], str]] = {
    errno.ESHUTDOWN: (Fenced, "this client's address is on Ceph's blocklist (the node was fenced)"),
    errno.EACCES: (Denied, "Ceph does not allow it: check the cephx user's key and capabilities"),
    errno.EPERM: (Denied, "Ceph does not allow it: check the cephx user's key and capabilities"),
    errno.ENOSPC: (NoSpace, "the Ceph pool or cluster is full: delete disks, or add OSDs"),
    errno.EDQUOT: (NoSpace, "the Ceph pool's quota is used up: raise it, or delete disks"),
    errno.ENOENT: (NotFound, "it does not exist"),
    errno.EEXIST: (Exists, "it exists already"),
    errno.EBUSY: (InUse, "it is in use"),
    errno.ETIMEDOUT: (Unavailable, "Ceph did not answer in time: check its monitors and OSDs (ceph -s)"),
    errno.ENOTCONN: (Unavailable, "there is no connection to Ceph"),
    errno.EAGAIN: (Unavailable, "Ceph asks to try again"),
    errno.EIO: (Unavailable, "Ceph reports an I/O error: check its OSDs (ceph -s)"),
    errno.EROFS: (Unavailable, "another client holds the image's lock"),
    # What an image may answer whose snapshot was unprotected, or that was damaged: its own trouble.
    errno.EINVAL: (BadState, _STATE),
    errno.EDOM: (BadState, _STATE),
    errno.ERANGE: (BadState, _STATE),
    errno.EOPNOTSUPP: (BadState, _STATE),
    errno.ENOSYS: (BadState, _STATE),
    errno.EXDEV: (BadState, _STATE),
    errno.EBADF: (BadState, _STATE),
    errno.EILSEQ: (BadState, _STATE),
    errno.ENOTEMPTY: (InUse, "it has snapshots: see `rbd snap ls --all`"),
    errno.ENOMEM: (LocalTrouble, "this host is out of memory"),
    errno.EMFILE: (LocalTrouble, "too many files are open: raise LimitNOFILE"),
    errno.ENFILE: (LocalTrouble, "too many files are open on this host"),
}


def errno_of(error: BaseException) -> int:
    """The positive errno of a librados or librbd error; 0 when it carries none."""
    number = getattr(error, "errno", None)
    if isinstance(error, rbd.Timeout) and not number:
        return errno.ETIMEDOUT
    if isinstance(error, rbd.InvalidArgument | rados.InvalidArgumentError) and not number:
        return errno.EINVAL
    return abs(int(number)) if number else 0


def family(what: str, number: int, said: str) -> Exception:
    """The port's exception for an errno."""
    kind, why = _HINTS.get(number, (Unavailable, f"unexpected error {errno.errorcode.get(number, number)}"))
    return kind(f"{what}: {why} [{said}]")


@contextmanager
def mapped(what: str) -> Iterator[None]:
    """Turn Ceph's exceptions into ports'. ``what``: the operation and its object, for the message."""
    try:
        yield
    except (rados.Error, rbd.Error) as error:
        raise family(what, errno_of(error), f"{type(error).__name__}: {error}") from error
