"""A mini Ceph of our own: one monitor, one OSD on a sparse file, cephx on, no systemd.

Owns: one folder with everything in it (configuration, keyrings, data, logs, pids) and the daemons started
from it. Refuses: touching a daemon that it cannot prove to be its own. Rule: a process is signalled only
when its pid *and* its start time (or, after a crash of ours, its ``-c`` argument) say that it is ours.

For laboratories and tests: one copy of the data, no redundancy. Every command may carry a prefix such as
``("ip", "netns", "exec", "fabric")``; the daemons then live in that network namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from metastack.ports import Broken, Refused, Unavailable
from metastack.settings import StorageSettings
from metastack.storage.ceph.rights import GUESTS, flat, guest_rights, may_fence_guests

from . import proc
from .ceph_conf import ceph_conf

COMMAND_TIMEOUT_S = 60.0
START_TIMEOUT_S = 120.0
TERM_GRACE_S = 15.0


class Daemon(Struct, frozen=True, kw_only=True):
    """A daemon that was started from this folder."""

    name: str
    """``mon.a``, ``osd.0`` or ``mgr.x``."""
    pid: int
    start_ticks: int
    """Field 22 of /proc/PID/stat: tells this process from a later one with the same pid."""


class CephStatus(Struct, frozen=True, kw_only=True):
    """What runs, without asking it anything."""

    running: tuple[str, ...]
    missing: tuple[str, ...]
    rss_mib: dict[str, int]


class MiniCeph:
    """One mini cluster in ``directory``. Monitors listen on ``address:v2_port`` and ``address:v1_port``."""

    def __init__(
        self,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        v2_port: int = 13300,
        v1_port: int = 16789,
        osd_ports: tuple[int, int] = (6800, 7300),
        prefix: tuple[str, ...] = (),
        manager: bool = False,
        osd_bytes: int = 8 << 30,
    ) -> None:
        self.directory = directory.absolute()
        self.address = address
        self.v2_port = v2_port
        self.v1_port = v1_port
        self.osd_ports = osd_ports
        self.prefix = prefix
        self.manager = manager
        self.osd_bytes = osd_bytes

    # --- where things are

    @property
    def conf(self) -> Path:
        return self.directory / "ceph.conf"

    @property
    def admin_keyring(self) -> Path:
        return self.directory / "ceph.client.admin.keyring"

    @property
    def monitors(self) -> tuple[str, ...]:
        """``host:port`` of the v1 ports, which librados, QEMU and libvirt all understand."""
        return (f"{self.address}:{self.v1_port}",)

    def keyring(self, user: str) -> Path:
        return self.directory / f"ceph.client.{user}.keyring"

    def settings(self, user: str, pool: str = "vms", timeout_s: float = 10.0) -> StorageSettings:
        """What an adapter needs to reach this cluster as that user."""
        guests = user + GUESTS
        own = self.keyring(guests).exists()
        return StorageSettings(
            kind="ceph",
            pool=pool,
            monitors=self.monitors,
            user=user,
            keyring=str(self.keyring(user)),
            guest_user=guests if own else "",
            guest_keyring=str(self.keyring(guests)) if own else "",
            timeout_s=timeout_s,
        )

    @property
    def _names(self) -> tuple[str, ...]:
        return ("mon.a", "osd.0", *(("mgr.x",) if self.manager else ()))

    # --- life

    async def create(self) -> None:
        """Make a new cluster in an empty (or absent) folder and start it; returns when its OSD is up."""
        if self.directory.exists() and any(self.directory.iterdir()):
            # A stale monitor store with a new admin key hangs every client for minutes.
            raise Refused(f"{self.directory} is not empty: restart it with start(), or destroy() it first")
        for part in ("mon", "mgr/x", "osd/0", "run", "log", "crash"):
            (self.directory / part).mkdir(parents=True, mode=0o700)
        fsid = str(uuid.uuid4())
        self.conf.write_text(
            ceph_conf(
                directory=self.directory,
                fsid=fsid,
                address=self.address,
                v2_port=self.v2_port,
                v1_port=self.v1_port,
                osd_ports=self.osd_ports,
                osd_bytes=self.osd_bytes,
            )
        )
        mon_keys, admin = str(self.directory / "mon.keyring"), str(self.admin_keyring)
        monmap = str(self.directory / "monmap")
        both = f"[v2:{self.address}:{self.v2_port},v1:{self.address}:{self.v1_port}]"
        new = ("--create-keyring", "--gen-key")
        await self.run("ceph-authtool", mon_keys, *new, "-n", "mon.", "--cap", "mon", "allow *")
        caps = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
        await self.run("ceph-authtool", admin, *new, "-n", "client.admin", *caps)
        await self.run("ceph-authtool", mon_keys, "--import-keyring", admin)
        await self.run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", both, monmap)
        await self._ceph_daemon("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", mon_keys)
        shutil.copy(mon_keys, self.directory / "mon" / "a" / "keyring")
        await self._start("mon.a")

        osd_uuid = str(uuid.uuid4())
        secret = (await self.run("ceph-authtool", "--gen-print-key")).decode().strip()
        await self.ceph("osd", "new", osd_uuid, "-i", "-", stdin=json.dumps({"cephx_secret": secret}).encode())
        osd_keyring = self.directory / "ceph.osd.0.keyring"
        await self.run(
            "ceph-authtool", str(osd_keyring), "--create-keyring", "--name", "osd.0", "--add-key", secret
        )
        await self._ceph_daemon("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_uuid)
        await self._start("osd.0")
        if self.manager:
            mgr_caps = ("mon", "allow profile mgr", "osd", "allow *", "mds", "allow *")
            keyring = str(self.directory / "ceph.mgr.x.keyring")
            await self.ceph("auth", "get-or-create", "mgr.x", *mgr_caps, "-o", keyring)
            await self._start("mgr.x")
        await self._until_up()

    async def start(self) -> None:
        """Start what does not run, on the data of an earlier create()."""
        if not self.conf.exists():
            raise Refused(f"{self.directory} holds no cluster: create() it first")
        for name in self._names:
            if self._daemon(name) is None:
                await self._start(name)
        await self._until_up()

    async def stop(self) -> None:
        """TERM every daemon that is provably ours, wait, KILL after 15 s. Absent ones are fine."""
        daemons = [d for n in reversed(self._names) if (d := self._daemon(n))]
        # The OSD says goodbye to the monitor: it goes first, or its shutdown takes longer.
        for daemon in daemons:
            await _end(daemon)
            self._record(daemon.name).unlink(missing_ok=True)
            (self.directory / "run" / f"{daemon.name}.pid").unlink(missing_ok=True)

    def kill(self, name: str) -> None:
        """SIGKILL one daemon, as a crash would."""
        self.signal(name, signal.SIGKILL)

    def signal(self, name: str, how: signal.Signals) -> None:
        """Send one daemon a signal; one that does not run is fine."""
        if daemon := self._daemon(name):
            os.kill(daemon.pid, how)

    async def thaw(self, name: str, pool: str) -> None:
        """Let a frozen daemon go on.

        An OSD that was frozen for longer than its read lease (16 s) may never serve that pool again: reads stay
        "waiting for readable". In a real cluster its peers have it marked down, and it comes back as another
        instance; a single OSD has no peers, so one that lists no objects within 6 s is started again.
        """
        self.signal(name, signal.SIGCONT)
        if name.startswith("osd."):
            try:
                await self.run("rados", "-c", str(self.conf), "-p", pool, "ls", timeout_s=6)
            except Unavailable:
                self.kill(name)
                await self.start()

    async def destroy(self) -> None:
        """Stop, then remove the folder."""
        await self.stop()
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)

    def status(self) -> CephStatus:
        alive = {n: d for n in self._names if (d := self._daemon(n))}
        return CephStatus(
            running=tuple(alive),
            missing=tuple(n for n in self._names if n not in alive),
            rss_mib={n: _rss_mib(d.pid) for n, d in alive.items()},
        )

    # --- pools and users

    async def create_pool(self, name: str = "vms") -> None:
        """A pool ready for RBD; an existing one is fine."""
        await self.ceph("osd", "pool", "create", name, "8", "8", "replicated")
        await self.run("rbd", "-c", str(self.conf), "pool", "init", name)

    async def create_node_user(
        self, name: str, *storage_addresses: str, pool: str = "vms", guests: bool = False
    ) -> Path:
        """A compute node's cephx user; returns its keyring file. ``guests``: and one of its guests' alone.

        Safety: it may block anyone (``profile rbd``) but unblock only its own addresses; with
        ``guests`` it may set rights of guests' users, which an attacker can make more of (ceph_rights).
        """
        own = "".join(
            f', allow command "osd blocklist" with blocklistop=rm addr="{address}:0/0"'
            for address in storage_addresses
        )
        if guests:
            await self._keep(name + GUESTS, flat(guest_rights(pool)))
            own += may_fence_guests(name + GUESTS, pool)
        return await self._user(name, f"profile rbd{own}", pool)

    async def create_management_user(self, name: str, pool: str = "vms") -> Path:
        """The user of CLI and web: images and disks; it may block (``node fence``) but never unblock."""
        return await self._user(name, "profile rbd", pool)

    async def _user(self, name: str, mon_caps: str, pool: str) -> Path:
        caps = ("mon", mon_caps, "osd", f"profile rbd pool={pool}", "mgr", f"profile rbd pool={pool}")
        return await self._keep(name, caps)

    async def _keep(self, name: str, caps: Sequence[str]) -> Path:
        text = await self.ceph("auth", "get-or-create", f"client.{name}", *caps)
        path = self.keyring(name)
        path.touch(mode=0o600)
        path.write_bytes(text)
        return path

    # --- commands

    async def ceph(self, *args: str, stdin: bytes = b"") -> bytes:
        """Run the ``ceph`` command as admin; its standard output."""
        connect = ("-c", str(self.conf), "--connect-timeout", "20")
        return await self.run("ceph", *connect, *args, stdin=stdin)

    async def run(self, *argv: str, stdin: bytes = b"", timeout_s: float = COMMAND_TIMEOUT_S) -> bytes:
        """Run one command (behind the prefix); raises Unavailable with what it said when it fails."""
        process = await asyncio.create_subprocess_exec(
            *self.prefix,
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
            env=_environment(),
        )
        try:
            async with asyncio.timeout(timeout_s):
                out, err = await process.communicate(stdin)
        except TimeoutError:
            raise Unavailable(f"{' '.join(argv)}: no answer within {timeout_s:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            said = err.decode(errors="replace").strip() or out.decode(errors="replace").strip()
            raise Unavailable(f"{' '.join(argv)}: exit {process.returncode}: {said[-2000:]}")
        return out

    async def _ceph_daemon(self, program: str, *args: str) -> None:
        """Run a daemon program that ends or daemonizes.

        Not through pipes: a daemon keeps its parent's open, and the reader would wait for ever.
        """
        log = self.directory / "log" / f"{program}.out"
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *self.prefix,
                program,
                "-c",
                str(self.conf),
                *args,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                code = await process.wait()
        except TimeoutError:
            raise Unavailable(f"{program} {' '.join(args)} did not end; see {log}") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if code:
            raise Unavailable(f"{program} {' '.join(args)}: exit {code}: {log.read_text()[-2000:]}")

    # --- daemons

    async def _start(self, name: str) -> None:
        kind, ident = name.split(".")
        (self.directory / "run" / f"{name}.pid").unlink(missing_ok=True)
        self._record(name).unlink(missing_ok=True)
        await self._ceph_daemon(f"ceph-{kind}", "-i", ident)
        deadline = time.monotonic() + START_TIMEOUT_S
        while (daemon := self._adopt(name)) is None:
            if time.monotonic() > deadline:
                raise Unavailable(f"{name} wrote no pid; see {self.directory / 'log'}")
            await asyncio.sleep(0.02)
        self._record(name).write_bytes(msgspec.json.encode(daemon))

    def _record(self, name: str) -> Path:
        return self.directory / "run" / f"{name}.json"

    def _daemon(self, name: str) -> Daemon | None:
        """The living daemon of that name, or None."""
        try:
            daemon = msgspec.json.decode(self._record(name).read_bytes(), type=Daemon)
        except (OSError, msgspec.DecodeError):
            return self._adopt(name)  # we died between starting it and writing that down
        return daemon if proc.started(daemon.pid) == daemon.start_ticks else None

    def _adopt(self, name: str) -> Daemon | None:
        """Ceph's own pid file, believed only when that process runs with our configuration."""
        try:
            pid = int((self.directory / "run" / f"{name}.pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        ticks = proc.started(pid)
        if ticks is None or str(self.conf).encode() not in words:
            return None
        return Daemon(name=name, pid=pid, start_ticks=ticks)

    async def _until_up(self) -> None:
        deadline, seen = time.monotonic() + START_TIMEOUT_S, b""
        while time.monotonic() < deadline:
            try:
                seen = await self.ceph("osd", "stat", "-f", "json")
            except Unavailable as error:
                seen = str(error).encode()
            else:
                found: dict[str, Any] = json.loads(seen)
                if found.get("num_osds") == found.get("num_up_osds") == 1:
                    return
            if missing := self.status().missing:
                raise Broken(f"{', '.join(missing)} died while starting; see {self.directory / 'log'}")
            await asyncio.sleep(0.05)
        raise Unavailable(f"the OSD is not up: {seen.decode(errors='replace')}")


def new_address() -> str:
    """A loopback address that nobody else is likely to use: several mini clusters live side by side."""
    return f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(256)}.{secrets.randbelow(253) + 1}"


def _environment() -> dict[str, str]:
    """No CEPH_CONF, PYTHONPATH or virtual environment of the caller reaches the tools."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}


def _rss_mib(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    return 0


async def _end(daemon: Daemon) -> None:
    for sig, patience_s in ((signal.SIGTERM, TERM_GRACE_S), (signal.SIGKILL, TERM_GRACE_S)):
        # Safety: checked right before each signal; the pid may have been given away since.
        if proc.started(daemon.pid) != daemon.start_ticks:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(daemon.pid, sig)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if proc.started(daemon.pid) != daemon.start_ticks:
                return
            await asyncio.sleep(0.02)
    if proc.started(daemon.pid) == daemon.start_ticks:
        raise Unavailable(f"{daemon.name} (pid {daemon.pid}) survives SIGKILL: its disk does not answer")
