"""Look at the lock that QEMU holds on an image file, without taking it.

Owns: that question. Refuses: opening anything for writing. Rule: the question is asked of the kernel
(F_OFD_GETLK), which also knows the locks of other hosts where the file system is shared (NFS 4).

QEMU (block/file-posix.c) holds shared OFD locks on single bytes: 100+n for each permission n that it uses.
Permission 1 is "write": every guest disk and every writable export holds byte 101, and no reader does.
"""

from __future__ import annotations

import fcntl
import os
import struct

_WRITE_BYTE = 100 + 1
_FLOCK = "hhqqi0q"
"""struct flock: type, whence, start, length, pid, padded as C does."""


def write_locked(path: str) -> bool:
    """True when some QEMU has the file open for writing; OSError when the file cannot be opened."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # An exclusive lock conflicts with every lock there is; the kernel only answers whether it would.
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _WRITE_BYTE, 1, 0)
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(fd)
