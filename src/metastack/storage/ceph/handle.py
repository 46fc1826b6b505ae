"""One connection to Ceph: a Rados handle, the pool, and monitor commands.

Owns: the configuration of librados (no ceph.conf, every wait bounded) and the handle's end.
Refuses: use after it was retired. Rule: a retired handle shuts down when the last call on it is done, never
under one.

Everything here blocks: it runs in the adapter's threads.
"""

from __future__ import annotations

import base64
import binascii
import configparser
import ipaddress
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rados
import rbd

from metastack.core.model import StoragePlace
from metastack.ports import Broken, Denied, NoSpace, Unavailable
from metastack.settings import StorageSettings

from .errors import family, mapped


def read_key(user: str, keyring: str) -> str:
    """A user's key (base64) from its keyring file."""
    section = f"client.{user}"
    try:
        with open(keyring, encoding="utf-8") as file:
            text = file.read(64 * 1024)
    except (OSError, UnicodeDecodeError) as error:
        raise Denied(f"the keyring {keyring!r} of cephx user {section} cannot be read: {error}") from None
    # Ceph indents with tabs, which configparser would take for continuation lines.
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string("\n".join(line.strip() for line in text.splitlines()))
        if section not in parser and (others := parser.sections()):
            raise Denied(
                f"the keyring {keyring!r} holds no valid key of {section}: it is of {', '.join(others)}"
            )
        key = parser[section]["key"].strip()
        base64.b64decode(key, validate=True)
    except (configparser.Error, KeyError, binascii.Error):
        raise Denied(
            f"the keyring {keyring!r} holds no valid key of {section}: "
            f"write there what `ceph auth get {section}` prints"
        ) from None
    return key


def keys_of(settings: StorageSettings) -> tuple[str, str]:
    """This program's key and the guests', as their files have them now; the guests' is empty for a secret."""
    key = read_key(settings.user, settings.keyring)
    if settings.guest_secret:
        return key, ""
    return key, read_key(settings.guest_user, settings.guest_keyring) if settings.guest_user else key


def monitor_hosts(monitors: tuple[str, ...]) -> str:
    """``mon_host`` with the protocol named: without it librados tries both and complains on stderr."""
    return ",".join(f"{'v2' if m.endswith(':3300') else 'v1'}:{m}" for m in monitors)


def host_of(ceph_address: str) -> str:
    """The plain IP address in ``10.0.0.1:0/123``, ``v1:[fd00::1]:0/0``, ``[v2:…,v1:…]``, or ""."""
    first = plain(ceph_address.split(",", maxsplit=1)[0].replace("[v", "v"))
    host = first[1:].split("]", maxsplit=1)[0] if first.startswith("[") else first.split(":", maxsplit=1)[0]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""


def plain(ceph_address: str) -> str:
    """Without the protocol in front."""
    for prefix in ("v1:", "v2:", "any:"):
        ceph_address = ceph_address.removeprefix(prefix)
    return ceph_address


def address_of_new_client(settings: StorageSettings) -> str:
    """Where the monitors see a client that begins now; "" when they do not say.

    A client keeps the address of its first connection for life; it names itself by it, and is blocked by it. So
    only a new client shows what the next QEMU's would be.
    """
    timeout_s = str(max(1, round(settings.timeout_s)))
    probe = rados.Rados(
        rados_id=settings.user,
        conf={
            "mon_host": monitor_hosts(settings.monitors),
            "key": read_key(settings.user, settings.keyring),
            "keyring": "/dev/null",
            "auth_client_required": "cephx",
            "client_mount_timeout": timeout_s,
            "log_to_stderr": "false",
            "err_to_stderr": "false",
            "log_file": "",
            "admin_socket": "",
            "ms_async_op_threads": "1",
        },
    )
    try:
        with mapped(f"connecting to Ceph at {', '.join(settings.monitors)} as client.{settings.user}"):
            probe.connect()
        return host_of(str(probe.get_addrs()))
    finally:
        probe.shutdown()


class Handle:
    """A connected Rados handle with its pool."""

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._users = 0
        self._retired = False
        self.key, self.guest_key = keys_of(settings)
        timeout_s = str(max(1, round(settings.timeout_s)))
        # Ceph's client asks for a newer OSD map when an operation is older than this. By its default it is as
        # old as ours ever get, so it never asked, and waited for an OSD's former address for ever.
        laggy_s = f"{min(2.0, settings.timeout_s / 5):.1f}"
        self.who = f"Ceph at {', '.join(settings.monitors)} as client.{settings.user}"
        if not settings.monitors:
            raise Broken("storage settings of kind ceph name no monitors")
        self._rados = rados.Rados(
            rados_id=settings.user,
            conf={
                "mon_host": monitor_hosts(settings.monitors),
                "key": self.key,
                "keyring": "/dev/null",
                "auth_client_required": "cephx",
                "client_mount_timeout": timeout_s,
                "rados_mon_op_timeout": timeout_s,
                "rados_osd_op_timeout": timeout_s,
                "objecter_timeout": laggy_s,
                "objecter_tick_interval": laggy_s,
                "log_to_stderr": "false",
                "err_to_stderr": "false",
                "log_file": "",
                "admin_socket": "",
                # Version 1 clones count for "unprotect" even in the trash: that refusal is our guard.
                "rbd_default_clone_format": "1",
                # An import writes each block once: caching it would only cost memory.
                "rbd_cache": "false",
                # Never librados_thread_count=1: unprotecting a snapshot with clones then waits for itself.
                "ms_async_op_threads": "1",
            },
        )
        try:
            with mapped(f"connecting to {self.who} with the key in {settings.keyring}"):
                self._rados.connect()
            if not self._rados.pool_exists(settings.pool):
                raise Unavailable(f"{self.who}: there is no pool {settings.pool!r}: create it, or name another")
            with mapped(f"opening pool {settings.pool} of {self.who}"):
                self.ioctx = self._rados.open_ioctx(settings.pool)
                # A full cluster answers with an error at once instead of letting writes hang, and still
                # deletes, which is what helps it.
                self.ioctx.set_osdmap_full_try()
            self.fsid = str(self._rados.get_fsid())
            self.place = StoragePlace(
                kind="ceph", fsid=self.fsid, pool=settings.pool, pool_id=int(self.ioctx.get_pool_id())
            )
            self.address = str(self._rados.get_addrs())
        except BaseException:
            self._rados.shutdown()
            raise

    @contextmanager
    def use(self) -> Iterator[Handle]:
        """Hold the handle for one call."""
        with self._lock:
            if self._retired:
                raise Unavailable(f"{self.who}: this connection was replaced; try again")
            self._users += 1
        try:
            yield self
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._retired and self._users == 0
        if last:
            self._shutdown()

    def retire(self) -> None:
        """No new calls; shut down now, or when the last running call ends."""
        with self._lock:
            if self._retired:
                return
            self._retired = True
            idle = self._users == 0
        if idle:
            self._shutdown()

    def _shutdown(self) -> None:
        self.ioctx.close()
        self._rados.shutdown()

    def probe(self) -> None:
        """Read from an OSD: proves that the pool is reachable, allowed and that we are not fenced."""
        with mapped(f"reading pool {self._settings.pool} of {self.who}"):
            try:
                self.ioctx.stat("rbd_directory")
            except rados.ObjectNotFound:
                pass  # an empty pool

    def command(self, what: str, **command: Any) -> bytes:
        """One monitor command; raises what its errno means."""
        with mapped(f"{what} ({self.who})"):
            code, out, said = self._rados.mon_command(json.dumps(command), b"")
        if code:
            raise family(f"{what} ({self.who})", abs(code), said)
        return bytes(out)

    def json(self, what: str, **command: Any) -> Any:
        """The first JSON document of the answer; some commands append a second one."""
        text = self.command(what, **command, format="json").decode().lstrip()
        try:
            return json.JSONDecoder().raw_decode(text)[0]
        except json.JSONDecodeError as error:
            raise Unavailable(f"{what} ({self.who}): the answer is no JSON: {error}") from None

    def wait_for_latest_osdmap(self) -> None:
        with mapped(f"waiting for the latest OSD map ({self.who})"):
            self._rados.wait_for_latest_osdmap()

    def refuse_when_full(self) -> None:
        """NoSpace when the pool takes no writes: to a client it just looks as if Ceph did not answer."""
        found = self.json("reading the OSD map", prefix="osd dump")
        flags = set(str(found.get("flags", "")).split(","))
        for pool in found["pools"]:
            if pool["pool_name"] == self._settings.pool:
                flags |= set(str(pool["flags_names"]).split(","))
        if {"full", "full_quota"} & flags:
            raise NoSpace(
                f"the Ceph pool {self._settings.pool!r} is full ({self.who}): "
                "delete disks, raise its quota or add OSDs"
            )

    def image(self, name: str, read_only: bool = True) -> rbd.Image:
        """Open an RBD image (a context manager). Read-only leaves no watcher behind."""
        return rbd.Image(self.ioctx, name, read_only=read_only)
