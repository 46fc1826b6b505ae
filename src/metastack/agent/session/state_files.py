"""Durable local marks: one agent per host, the clean exit, the unblock under way, the etcd that was seen.

Owns: the files in ``state_dir``. Rule: a mark is on the disk before what it announces is done.
Every method may raise LocalTrouble: the disk is full, read-only or failing. Nothing was announced then.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ...ports import Broken, local_io


class StateFiles:
    """The folder of state files of one node."""

    def __init__(self, directory: Path) -> None:
        self._dir = directory
        self._lock: int | None = None

    def lock(self) -> None:
        """Be the only agent on this host; raises Broken when another one runs."""
        if self._lock is not None:
            return
        with local_io(f"locking {self._dir / 'agent.lock'}"):
            self._dir.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                raise Broken(f"another agent runs on this host: {self._dir / 'agent.lock'} is locked") from None
            except OSError:
                os.close(handle)
                raise
        self._lock = handle

    def unlock(self) -> None:
        """Let the next agent start."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write(self, name: str, text: str) -> None:
        # Whole or not at all: an identity that a power cut left empty would be everybody's.
        fresh = self._dir / f".{name}.new"
        with local_io(f"writing {self._dir / name}"):
            with fresh.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._dir / name)
            self._sync()

    def _exists(self, name: str) -> bool:
        with local_io(f"looking for {self._dir / name}"):
            return (self._dir / name).exists()

    def _read(self, name: str) -> str:
        with local_io(f"reading {self._dir / name}"):
            return (self._dir / name).read_text()

    def _remove(self, name: str) -> None:
        with local_io(f"removing {self._dir / name}"):
            # A file system that is read-only refuses to remove also what is not there.
            if (self._dir / name).exists():
                (self._dir / name).unlink(missing_ok=True)
                self._sync()

    def _sync(self) -> None:
        handle = os.open(self._dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def take_clean_exit(self) -> bool:
        """True when the last agent left nothing in flight; the mark is gone afterwards.

        Safety: raises while it cannot be taken away. It would vouch for this agent, too, however that ends.
        """
        there = self._exists("clean-exit")
        if there:
            self._remove("clean-exit")
        return there

    def leave_clean_exit(self) -> None:
        """Nothing of this node is in flight any more."""
        self._write("clean-exit", "")

    def unblock_pending(self) -> bool:
        """An unblock of this node may still be on its way (CE7)."""
        return self._exists("unblock-pending")

    def begin_unblock(self) -> None:
        self._write("unblock-pending", "")

    def end_unblock(self) -> None:
        self._remove("unblock-pending")

    def joined(self) -> bool:
        """Some etcd knows this node for good."""
        return self._exists("joined")

    def begin_joined(self) -> None:
        self._write("joined", "")

    def etcd(self) -> str:
        """What was seen of etcd (agent/session/etcd_history), as it was kept; empty: nothing."""
        return self._read("etcd-seen.json") if self._exists("etcd-seen.json") else ""

    def keep_etcd(self, text: str) -> None:
        self._write("etcd-seen.json", text)

    def place(self) -> str:
        """How earlier agents of this node held its name (agent/session/hold_file); empty: nothing."""
        return self._read("place.json") if self._exists("place.json") else ""

    def keep_place(self, text: str) -> None:
        self._write("place.json", text)

    def forget_place(self) -> None:
        self._remove("place.json")

    def node_uuid(self, fresh: str) -> str:
        """This node's identity, made once."""
        if not self._exists("node-uuid"):
            self._write("node-uuid", fresh)
        return self._read("node-uuid").strip()
