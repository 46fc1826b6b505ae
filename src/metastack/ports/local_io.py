"""Local I/O: refusals of this host's own kernel, as one error family.

Owns: the words for each errno. Refuses: the storage's errors: those are the cluster's, not this host's.
Rule: an :class:`OSError` of this host ends no agent. It is reported, and tried again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from .errors import LocalTrouble

_HINTS: Final[dict[int | None, str]] = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "raise the quota, or free some space there",
    errno.EROFS: "it is mounted read-only: see the kernel log, and mount it writable",
    errno.EIO: "the device reports an error: see the kernel log",
    errno.EACCES: "check its owner and mode",
    errno.EPERM: "check its owner and mode",
    errno.EMFILE: "too many files are open: raise LimitNOFILE",
    errno.ENFILE: "too many files are open on this host",
    errno.ENOMEM: "this host is out of memory",
    errno.ENOENT: "it does not exist: make or mount it",
}


@contextmanager
def local_io(what: str) -> Iterator[None]:
    """Turn OSError into LocalTrouble. ``what``: the operation and its object, for the message."""
    try:
        yield
    except OSError as error:
        said = error.strerror or str(error)
        where = f" {error.filename}" if isinstance(error.filename, str) and error.filename not in what else ""
        hint = f": {_HINTS[error.errno]}" if error.errno in _HINTS else ""
        raise LocalTrouble(f"{what}:{where} {said}{hint}") from error
