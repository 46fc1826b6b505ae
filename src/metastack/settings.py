"""How a process reaches the store and the storage: shared by the agent's configuration and CLI contexts."""

from __future__ import annotations

from msgspec import Struct


class StoreSettings(Struct, frozen=True, kw_only=True):
    """Where etcd is."""

    endpoints: tuple[str, ...] = ()
    """``http://host:port``, ``https://host:port``, ``unix:/absolute/path`` or, with TLS, ``unixs:/…``
    each; ``host:port`` as etcdctl has it: https where certificates are set, else http."""
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
    """Ceph monitors, ``host:port`` each (msgr v1 port, which QEMU and libvirt also support)."""
    user: str = ""
    """cephx user without ``client.``."""
    keyring: str = ""
    """Keyring file of that user."""
    guest_user: str = ""
    """cephx user of this node's guests alone, so that a fence can revoke its rights; empty: ``user``."""
    guest_keyring: str = ""
    """Keyring file of that user."""
    guest_secret: str = ""
    """Secret with the key of that user, instead of a keyring file."""
    directory: str = ""
    """file: folder that every node shares."""
    timeout_s: float = 10.0
    """Deadline of one storage call that should be quick, seconds."""
