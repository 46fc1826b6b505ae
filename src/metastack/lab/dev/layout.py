"""Where a one-machine cluster keeps everything, and the record of what it started.

Owns: the state folder's paths and ``state.json``. Refuses: starting or stopping anything.
Rule: the record is on disk before a thing is made whenever its name is known before, and right after
otherwise; so that whoever comes next, after SIGKILL or a reboot, knows what to remove.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from metastack.core.model import valid_name
from metastack.ports import NotFound, Refused

from .proc import Proc

ENV_STATE = "METASTACK_DEV_STATE"
ENV_CACHE = "METASTACK_DEV_CACHE"
Mode = Literal["namespaces", "plain"]


class State(Struct, kw_only=True):
    """``state.json``: what ``up`` was asked for and what it has made so far."""

    v: int = 1
    name: str
    mode: Mode
    why: str = ""
    """Why this mode and storage."""
    storage: str
    index: int
    """Number of the cluster's subnets; free when it was chosen."""
    nodes: list[str]
    etcd: int
    lease_ttl_s: int
    ports: dict[str, int] = {}
    """plain: TCP ports on the loopback, by what listens there."""
    procs: dict[str, Proc] = {}
    """By role: ``etcd.e1``, ``dnsmasq``, ``host.n1``."""
    uid: int = 0
    """The person for whom it runs."""
    gid: int = 0
    secure: bool = False
    """etcd has TLS and rights, as on real hosts."""
    previous_context: str = ""
    """What was current before this cluster's context was selected; current again after ``down``."""


def base() -> Path:
    """The folder above every cluster's own."""
    if named := os.environ.get(ENV_STATE):
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/metastack/dev")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "metastack" / "dev"


def cache() -> Path:
    """Where things that take long to make are kept; survives ``down``. The guest image, for one."""
    if named := os.environ.get(ENV_CACHE):
        return Path(named).absolute()
    if os.environ.get(ENV_STATE):
        return base() / ".cache"
    if os.geteuid() == 0:
        return Path("/var/cache/metastack")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "metastack"


def invoker() -> tuple[int, int]:
    """uid and gid of the person: the one behind sudo, else the process's own."""
    uid = os.environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and uid.isdecimal():
        with contextlib.suppress(KeyError, OverflowError):
            entry = pwd.getpwuid(int(uid))
            return entry.pw_uid, entry.pw_gid
    return os.getuid(), os.getgid()


class Layout:
    """The paths of one cluster."""

    def __init__(self, name: str) -> None:
        if not valid_name(name) or len(name) > 20:
            raise Refused(f"cluster name {name!r}: a DNS label of at most 20 characters")
        self.name = name
        self.folder = base() / name

    @property
    def state_file(self) -> Path:
        return self.folder / "state.json"

    @property
    def fabric(self) -> Path:
        """Where the fabric's network namespace is mounted."""
        return self.folder / "fabric.net"

    @property
    def etcd(self) -> Path:
        return self.folder / "etcd"

    @property
    def pki(self) -> Path:
        """secure: the CA, and an identity's folder for each etcd user."""
        return self.folder / "pki"

    @property
    def ceph(self) -> Path:
        return self.folder / "ceph"

    @property
    def disks(self) -> Path:
        """File storage: the folder that every node shares."""
        return self.folder / "disks"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def node(self, name: str) -> Path:
        return self.folder / "nodes" / name

    @property
    def short(self) -> Path:
        """plain: a folder with a short path, because libvirt builds long socket paths below it."""
        digest = hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"ms-{os.getuid()}-{digest}"

    # --- the record

    def load(self) -> State | None:
        """The record; None when there is no cluster. Raises Refused when it is unreadable."""
        try:
            return msgspec.json.decode(self.state_file.read_bytes(), type=State)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise Refused(f"{self.state_file}: {error}") from None

    def need(self) -> State:
        """The record; raises NotFound when there is no cluster."""
        state = self.load()
        if state is None:
            there = ", ".join(clusters()) or "none"
            raise NotFound(
                f"there is no cluster {self.name} in {base()} (there are: {there}): "
                f"metastack dev up --name {self.name} creates it"
            )
        return state

    def save(self, state: State) -> None:
        """Write the record aside, then over the old one."""
        aside = self.state_file.with_suffix(".new")
        with aside.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(state), indent=1))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.state_file)

    def remove(self) -> None:
        """The folders, and those above them that nothing else is in."""
        for folder in (self.folder, self.short):
            if folder.exists():
                shutil.rmtree(folder)
        for parent in (base(), base().parent):
            if parent.name in ("dev", "metastack") and parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time on one cluster; needs the folder."""
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(f"another command works on cluster {self.name} right now") from None
            yield
        finally:
            os.close(handle)


def clusters() -> list[str]:
    """Names of every cluster that has a record."""
    try:
        return sorted(entry.name for entry in base().iterdir() if (entry / "state.json").is_file())
    except OSError:
        return []
