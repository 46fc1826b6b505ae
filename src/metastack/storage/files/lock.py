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


def holders(path: str) -> list[tuple[int, str]]:
    """Processes of this host that have the file open for writing, with their names, by /proc.

    The kernel does not tell who holds such a lock: whoever has the file open for writing may.
    """
    wanted = os.stat(path)
    found = []
    for entry in sorted((e for e in os.listdir("/proc") if e.isdigit()), key=int):
        if int(entry) != os.getpid() and _writes(f"/proc/{entry}", wanted):
            found.append((int(entry), _name(f"/proc/{entry}")))
    return found


def _writes(process: str, wanted: os.stat_result) -> bool:
    try:
        numbers = os.listdir(f"{process}/fd")
    except OSError:
        return False  # it ended, or is somebody else's
    for number in numbers:
        try:
            there = os.stat(f"{process}/fd/{number}")
            if (there.st_dev, there.st_ino) != (wanted.st_dev, wanted.st_ino):
                continue
            # The link's own permission bits say how the file was opened.
            if os.lstat(f"{process}/fd/{number}").st_mode & 0o200:
                return True
        except OSError:
            continue
    return False


def _name(process: str) -> str:
    try:
        with open(f"{process}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip() or "?"
    except OSError:
        return "?"
