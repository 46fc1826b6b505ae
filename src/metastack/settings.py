"""How a process reaches the store and the storage: shared by the agent's configuration and CLI contexts."""

from __future__ import annotations

from msgspec import Struct


class StoreSettings(Struct, frozen=True, kw_only=True):
    """Where etcd is."""

    endpoints: tuple[str, ...] = ()
    """``http://host:port``, ``https://host:port`` or ``unix:/absolute/path`` each; ``host:port`` as etcdctl has
    it: https where certificates are set, else http."""
    root: str = "/metastack"
    """Prefix of every key."""
    ca: str = ""
    """File of the certificate authority; empty: plaintext, or the system's authorities for https."""
    cert: str = ""
    """File of the client certificate."""
    key: str = ""
    """File of the client's private key."""


class StorageSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where disks are."""

    kind: str = "file"
    """``ceph`` or ``file``."""
    pool: str = "vms"
    """Ceph pool."""
    monitors: tuple[str, ...] = ()
    """Ceph monitors, ``host:port`` each (msgr v1 port, which QEMU and libvirt understand too)."""
    user: str = ""
    """cephx user without ``client.``."""
    keyring: str = ""
    """File with that user's key."""
    guest_user: str = ""
    """cephx user that only this node's guests have, so that a fence can take its rights; empty: ``user``."""
    guest_keyring: str = ""
    """File with that user's key."""
    directory: str = ""
    """file: the folder that every node shares."""
    timeout_s: float = 10.0
    """Deadline of one storage call that should be quick, seconds."""
