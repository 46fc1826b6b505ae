"""One agent a libvirt: a lock beside libvirt's own socket, held for as long as this process lives.

Owns: where that file is, and holding it. Refuses: judging whose domains are there, which their metadata say.
Rule: the file belongs to the daemon, not to the agent: two agents with other names, folders or network
namespaces meet at it, whenever they reach the same socket.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from metastack.ports import InUse, LocalTrouble

FILE: Final = "metastack-agent.lock"


def lock_path(uri: str) -> Path | None:
    """Where all agents of that libvirt meet; None for libvirt's test driver, which is private to a process."""
    parts = urlsplit(uri)
    query = parse_qs(parts.query)
    if parts.scheme.startswith("test"):
        return None
    if "socket" in query:
        return Path(query["socket"][0]).parent / FILE
    if "root" in query:
        return Path(query["root"][0]) / FILE
    if parts.hostname:  # its files are on another host: at least no two agents of this one
        return Path("/run") / f"metastack-agent-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
    if parts.path == "/session" and (folder := os.environ.get("XDG_RUNTIME_DIR")):
        return Path(folder) / "libvirt" / FILE
    return Path("/run/libvirt") / FILE


class HostLock:
    """The lock of one connection's libvirt."""

    def __init__(self, uri: str) -> None:
        self._uri, self._path = uri, lock_path(uri)
        self._handle: int | None = None

    def acquire_host(self, node: str) -> None:
        """Hold it; raises InUse, naming who has it. Held already: fine."""
        if self._path is None or self._handle is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LocalTrouble(f"the lock {self._path} of libvirt cannot be opened: {error}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            who = os.pread(handle, 200, 0).decode(errors="replace").strip() or "somebody"
            os.close(handle)
            raise InUse(
                f"another agent works on this libvirt ({self._uri}): {who}. One libvirt is one node's: stop "
                "one of the two agents, or correct libvirt_uri"
            ) from None
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"that of node {node}, pid {os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds all the same
        self._handle = handle

    def release_host(self) -> None:
        """Let another agent have it. Not held: fine."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
