"""The agent's configuration: TOML file, environment, flags, in rising precedence.

Owns: every field, documented; validation with the name of the field that is wrong.
Every field ``name`` is also ``METASTACK_AGENT_NAME`` in the environment (lists: comma-separated; storage
fields: ``METASTACK_AGENT_STORAGE_POOL``) and ``--set name=value`` on the command line.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from ..core.model import valid_name
from ..settings import StorageSettings, StoreSettings

ENV_PREFIX: Final = "METASTACK_AGENT_"


class SettingsError(ValueError):
    """A setting is wrong; the message names it."""


class AgentSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one compute node must know."""

    name: str
    """The node's name, a DNS label; default: the host name's first part, in small letters."""
    endpoints: tuple[str, ...]
    """etcd: ``http://host:port``, ``https://host:port``, ``unix:/path`` or ``unixs:/path``, in this order.
    ``host:port`` is https where certificates are set, else http."""
    root: str = "/metastack"
    """Prefix of every key in etcd."""
    ca: str = ""
    """File of etcd's certificate authority."""
    cert: str = ""
    """File of the client certificate for etcd."""
    key: str = ""
    """File of the client certificate's private key."""
    address: str = ""
    """IP address under which peers and tools reach this node; default: the one that routes to etcd
    (where etcd is on this very host: the default route's)."""
    storage_addresses: tuple[str, ...] = ()
    """Every IP address from which this node may reach the storage; a fence blocks them all."""
    console_listen: str = ""
    """``IP:PORT`` of the console endpoint; default: ``address`` with port 7410. With ``0.0.0.0`` or ``[::]`` it
    listens at every address of this host and publishes ``address``."""
    libvirt_uri: str = "qemu:///system"
    """URI of libvirt."""
    libvirtd_restart_command: tuple[str, ...] = ()
    """Command that restarts libvirtd and keeps guests running; default: systemctl restart of its unit."""
    host_state_command: tuple[str, ...] = ()
    """Command that prints ``stopping`` during a shutdown of this host; default: systemctl is-system-running."""
    hypervisor: Literal["auto", "kvm", "qemu"] = "auto"
    """``auto`` uses KVM only when a probe proved it; ``kvm`` and ``qemu`` force it."""
    state_dir: str = "/var/lib/metastack"
    """Durable local files: the lock, the clean-exit mark, the unblock mark."""
    boot_id_file: str = "/proc/sys/kernel/random/boot_id"
    """File with the number of this host's boot. Each of several hosts that share a kernel needs its own."""
    run_dir: str = "/run/metastack"
    """Sockets that end with a reboot: VNC."""
    cpus: Annotated[int, Meta(ge=0)] = 0
    """CPUs to publish as capacity; 0: all of the machine."""
    memory_mib: Annotated[int, Meta(ge=0)] = 0
    """Memory to publish as capacity, MiB; 0: all of the machine."""
    resources: dict[str, Annotated[int, Meta(ge=0)]] = {}
    """Whole amounts of further resources that VMs may request: ``{ gpu = 2 }``, in text ``gpu=2,fpga=1``.
    Huge pages are found by the agent (``hugepages_2m``, ``hugepages_1g``) unless they are named here."""
    boots_at_once: Annotated[int, Meta(ge=0, le=256)] = 0
    """Number of guests that may boot at the same time; 0: the cluster's setting."""
    secrets_key_file: str = "/etc/metastack/secrets.key"
    """Keyring that opens the cluster's secrets, mode 0600. A node that uses no secret needs none."""
    watchdog_device: str = ""
    """``/dev/watchdog``: resets a fenced host that cannot kill its guests. Empty: off."""
    workers: Annotated[int, Meta(ge=1, le=256)] = 32
    """Number of VMs that the agent works on at the same time."""
    storage: StorageSettings = StorageSettings()
    """Storage of the disks: table ``[storage]``."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """``auto``: readable on a terminal, to the journal under systemd, JSON lines on stderr otherwise. ``json``
    and ``console``: always that, on stderr."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe event to log."""

    @property
    def store(self) -> StoreSettings:
        return StoreSettings(endpoints=self.endpoints, root=self.root, ca=self.ca, cert=self.cert, key=self.key)


def _parse_text(kind: Any, text: str) -> Any:
    """A value from the environment or a flag, in the type that the field has."""
    if "dict" in str(kind):
        pairs = (part.partition("=") for part in text.split(",") if part.strip())
        return {name.strip(): int(count) for name, _, count in pairs}
    if "tuple" in str(kind):
        return [part.strip() for part in text.split(",") if part.strip()]
    if "int" in str(kind) or "float" in str(kind):
        return float(text) if "float" in str(kind) else int(text)
    return text


def _overlay(raw: dict[str, Any], name: str, text: str, source: str) -> None:
    """Lay one textual setting over the raw tree; ``storage.pool`` and ``storage_pool`` both reach the table."""
    own, nested = AgentSettings.__annotations__, StorageSettings.__annotations__
    field = name.replace("-", "_").replace(".", "_")
    try:
        if field in own and field != "storage":
            raw[field] = _parse_text(own[field], text)
        elif field.startswith("storage_") and field[8:] in nested:
            raw.setdefault("storage", {})[field[8:]] = _parse_text(nested[field[8:]], text)
        else:
            raise SettingsError(f"{source}: no setting is called {name!r}")
    except ValueError as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"{source}: {name}: {text!r} is not a number") from None


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> AgentSettings:
    """Read the settings; raises :class:`SettingsError` that names file, field and what is wrong."""
    raw: dict[str, Any] = {}
    where = str(path) if path is not None else "settings"
    if path is not None:
        try:
            raw = tomllib.loads(path.read_text())
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}") from None
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{path}: {error}") from None
    for key, text in sorted((os.environ if environ is None else environ).items()):
        if key.startswith(ENV_PREFIX):
            _overlay(raw, key[len(ENV_PREFIX) :].lower(), text, key)
    for key, text in (flags or {}).items():
        _overlay(raw, key, text, f"--set {key}")
    if "name" not in raw:
        raw["name"] = _name_of_host(socket.gethostname())
    try:
        settings = msgspec.convert(raw, AgentSettings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {error}") from None
    _check(settings, where)
    return settings


def _name_of_host(host: str) -> str:
    """The host name's first label, in small letters as a node's name has them; raises SettingsError."""
    name = host.split(".")[0].lower()
    if not valid_name(name):
        raise SettingsError(
            f"name: the host is called {host!r}, which gives no node's name (a-z, 0-9, -): set `name` to one"
        )
    return name


def _instead(name: str) -> str:
    """What would do."""
    small = name.split(".")[0].lower()
    return f": set it to {small!r}" if valid_name(small) else ""


def _check(settings: AgentSettings, where: str) -> None:
    if not valid_name(settings.name):
        raise SettingsError(
            f"{where}: name: {settings.name!r} is not a DNS label (a-z, 0-9, -)" + _instead(settings.name)
        )
    if not settings.endpoints:
        raise SettingsError(f"{where}: endpoints: name at least one etcd endpoint")
    for address in (*settings.storage_addresses, *((settings.address,) if settings.address else ())):
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise SettingsError(f"{where}: {address!r} is not an IP address") from None
    try:
        if settings.console_listen:
            host, _, port = settings.console_listen.rpartition(":")
            ipaddress.ip_address(host.strip("[]") or "::")
            if not 0 < int(port) < 65_536:
                raise ValueError(port)
    except ValueError:
        raise SettingsError(f"{where}: console_listen: {settings.console_listen!r} is not IP:PORT") from None
    if settings.storage.kind not in ("ceph", "file"):
        raise SettingsError(f"{where}: storage.kind: {settings.storage.kind!r} is neither ceph nor file")
    if settings.storage.kind == "ceph" and not settings.storage_addresses:
        raise SettingsError(
            f"{where}: storage_addresses: a node on Ceph must name every address that a fence has to block"
        )
    of = settings.storage
    if of.guest_secret and (of.kind != "ceph" or not of.guest_user or of.guest_keyring):
        raise SettingsError(
            f"{where}: storage.guest_secret: needs kind ceph and a guest_user, and no guest_keyring"
        )
    if of.guest_secret and not valid_name(of.guest_secret):
        raise SettingsError(f"{where}: storage.guest_secret: {of.guest_secret!r} is not a DNS label")
    if settings.storage.kind == "file" and not settings.storage.directory:
        raise SettingsError(f"{where}: storage.directory: the file backend needs a folder that all nodes share")
