"""libvirt's errors, sorted into the families of :mod:`metastack.ports`.

Owns: the only place that reads libvirt's codes and QEMU's texts.
Rule: an error that says the connection broke *during* a call that changes something becomes UnknownOutcome;
never Refused, which would tell the caller that nothing happened.
"""

from __future__ import annotations

from typing import Final

import libvirt

from metastack.ports import (
    Denied,
    Exists,
    Fenced,
    InUse,
    InvalidImage,
    LocalTrouble,
    NotFound,
    Refused,
    Unavailable,
    UnknownOutcome,
)

_TEXTS: Final[tuple[tuple[str | tuple[str, ...], type[Exception]], ...]] = (
    # What QEMU says while it opens a disk; libvirt passes it on in a VIR_ERR_INTERNAL_ERROR.
    ('Failed to get "write" lock', InUse),
    ('Failed to get shared "write" lock', InUse),
    ("Cannot send after transport endpoint shutdown", Fenced),
    ("error connecting: Operation not permitted", Denied),
    ("error connecting: Permission denied", Denied),
    ("no secret with matching uuid", Denied),
    ("error connecting: Connection timed out", Unavailable),
    (("error reading header from", "No such file or directory"), NotFound),
    (("Could not open", "No such file or directory"), NotFound),
    ("is not in qcow2 format", InvalidImage),
    ("Image is corrupt", InvalidImage),
    # Of this host's memory and disks: a pool that is full says so to us, and lets QEMU wait.
    ("Cannot allocate memory", LocalTrouble),
    ("cannot set up guest memory", LocalTrouble),
    ("No space left on device", LocalTrouble),
    ("Read-only file system", LocalTrouble),
)

_CODES: Final[dict[int, type[Exception]]] = {
    libvirt.VIR_ERR_NO_DOMAIN: NotFound,
    libvirt.VIR_ERR_NO_SECRET: NotFound,
    libvirt.VIR_ERR_DOM_EXIST: Exists,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: Unavailable,
    libvirt.VIR_ERR_RESOURCE_BUSY: Unavailable,
    libvirt.VIR_ERR_AUTH_FAILED: Denied,
    libvirt.VIR_ERR_ACCESS_DENIED: Denied,
    libvirt.VIR_ERR_NO_MEMORY: LocalTrouble,
}

_HINTS: Final = {
    # Debian 13 has libvirt's drivers in packages of their own.
    "driver: virSecret": "apt-get install libvirt-daemon-driver-secret, then systemctl restart libvirtd",
}

_LOST: Final = frozenset(
    {
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_GNUTLS_ERROR,
    }
)


def connection_lost(error: libvirt.libvirtError) -> bool:
    """True when the error is about the way to the daemon, not about what was asked."""
    if error.get_error_code() in _LOST:
        return True
    # "client socket is closed", "Cannot write data: Broken pipe", "End of file while reading data"
    return bool(error.get_error_domain() == libvirt.VIR_FROM_RPC)


def translate(error: libvirt.libvirtError, *, changes: bool, what: str) -> Exception:
    """The exception to raise for a failed call; ``changes`` when the call changes something."""
    text = error.get_error_message() or str(error)
    if connection_lost(error):
        kind: type[Exception] = UnknownOutcome if changes else Unavailable
        return kind(f"{what}: lost libvirtd: {text}")
    text += "".join(f"; {hint}" for part, hint in _HINTS.items() if part in text)
    for said, family in _TEXTS:
        if all(part in text for part in ((said,) if isinstance(said, str) else said)):
            return family(f"{what}: {text}")
    return _CODES.get(error.get_error_code(), Refused)(f"{what}: {text}")
