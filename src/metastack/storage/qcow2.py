"""Read a qcow2 header by hand, before any other program looks at the file.

Owns: the verdict whether a qcow2 file stands alone and is sane. Refuses (InvalidImage): a backing file, an
external data file, encryption, unknown incompatible features, tables that do not fit into the file.
Rule: nothing a header names is ever opened; the header is hostile until this module says otherwise.

Format: QEMU's docs/interop/qcow2.txt. All numbers are big-endian.
"""

from __future__ import annotations

import struct

from msgspec import Struct

from metastack.ports import InvalidImage

MAGIC = b"QFI\xfb"
HEADER_BYTES = 72
"""Version 2; version 3 has at least 104."""
READ_BYTES = 64 * 1024
"""How much of the file's beginning :func:`parse` wants."""

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = 1, 2, 4, 8, 16
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_MAX_VIRTUAL_BYTES = 1 << 50
_MAX_L1_BYTES = 32 << 20
_MAX_REFCOUNT_TABLE_BYTES = 8 << 20
_MAX_SNAPSHOTS = 65536
_EXTENSION_END, _EXTENSION_DATA_FILE, _EXTENSION_CRYPTO = 0, 0x44415441, 0x0537BE77


class Header(Struct, frozen=True, kw_only=True):
    version: int
    size_bytes: int
    """Virtual size."""
    cluster_bytes: int
    backing: str = ""
    """Name of the backing file, as written in the file."""


def read_header(head: bytes, file_bytes: int) -> Header:
    """Parse and check everything but the references to other files. ``head``: the file's first bytes."""
    if head[:4] != MAGIC:
        raise InvalidImage("not a qcow2 file: its first four bytes are not QFI\\xfb")
    if len(head) < HEADER_BYTES:
        raise InvalidImage(f"truncated qcow2 file: {file_bytes} bytes hold no header")
    (
        _magic,
        version,
        backing_offset,
        backing_bytes,
        cluster_bits,
        size_bytes,
        crypt_method,
        l1_entries,
        l1_offset,
        refcount_offset,
        refcount_clusters,
        snapshots,
        snapshots_offset,
    ) = struct.unpack_from(">IIQIIQIIQQIIQ", head)
    if version not in (2, 3):
        raise InvalidImage(f"qcow2 version {version} is not known (2 and 3 are)")
    if not 9 <= cluster_bits <= 21:
        raise InvalidImage(f"corrupt qcow2 header: cluster_bits is {cluster_bits}, not 9 to 21")
    cluster_bytes = 1 << cluster_bits
    features, header_bytes = 0, HEADER_BYTES
    if version == 3:
        if len(head) < 104:
            raise InvalidImage("truncated qcow2 file: a version 3 header needs 104 bytes")
        features, _compatible, _autoclear, refcount_order, header_bytes = struct.unpack_from(">QQQII", head, 72)
        if refcount_order > 6:
            raise InvalidImage(f"corrupt qcow2 header: refcount_order is {refcount_order}, above 6")
        if not 104 <= header_bytes <= cluster_bytes:
            raise InvalidImage(f"corrupt qcow2 header: header_length is {header_bytes}")
    if crypt_method:
        raise InvalidImage("the qcow2 file is encrypted: import a decrypted copy (qemu-img convert)")
    if features & _DATA_FILE:
        raise InvalidImage(
            "the qcow2 file keeps its data in another file, which is never followed: "
            "merge them first with qemu-img convert"
        )
    if unknown := features & ~_KNOWN:
        raise InvalidImage(f"the qcow2 file needs unknown incompatible features ({unknown:#x})")
    if features & _CORRUPT:
        raise InvalidImage("the qcow2 file is marked corrupt: repair it with qemu-img check -r all")
    if not 0 < size_bytes <= _MAX_VIRTUAL_BYTES:
        raise InvalidImage(f"the qcow2 file's virtual size of {size_bytes} bytes is out of range")
    if size_bytes % 512:
        raise InvalidImage(f"the qcow2 file's virtual size of {size_bytes} bytes is no multiple of 512")
    _check_table("L1 table", l1_offset, l1_entries * 8, _MAX_L1_BYTES, cluster_bytes, file_bytes)
    per_l2 = cluster_bytes * (cluster_bytes // (16 if features & _EXTENDED_L2 else 8))
    if l1_entries < -(-size_bytes // per_l2):
        raise InvalidImage("corrupt qcow2 header: its L1 table is too small for its virtual size")
    _check_table(
        "refcount table",
        refcount_offset,
        refcount_clusters * cluster_bytes,
        _MAX_REFCOUNT_TABLE_BYTES,
        cluster_bytes,
        file_bytes,
    )
    if snapshots > _MAX_SNAPSHOTS or (snapshots and not 0 < snapshots_offset < file_bytes):
        raise InvalidImage(f"corrupt qcow2 header: {snapshots} snapshots at offset {snapshots_offset}")
    _check_extensions(head, header_bytes, backing_offset or cluster_bytes)
    return Header(
        version=version,
        size_bytes=size_bytes,
        cluster_bytes=cluster_bytes,
        backing=_backing(head, backing_offset, backing_bytes),
    )


def parse(head: bytes, file_bytes: int) -> Header:
    """:func:`read_header`, for a file that must stand alone."""
    header = read_header(head, file_bytes)
    if header.backing:
        raise InvalidImage(
            f"the qcow2 file has a backing file ({header.backing!r}), which is never followed: "
            "merge them first with qemu-img convert"
        )
    return header


def _check_table(
    name: str, offset: int, table_bytes: int, most_bytes: int, cluster_bytes: int, file_bytes: int
) -> None:
    if table_bytes > most_bytes:
        raise InvalidImage(f"corrupt qcow2 header: its {name} would have {table_bytes} bytes")
    if offset == 0 or offset % cluster_bytes:
        raise InvalidImage(f"corrupt qcow2 header: its {name} is at offset {offset}")
    if offset + table_bytes > file_bytes:
        raise InvalidImage(
            f"truncated qcow2 file: its {name} ends at byte {offset + table_bytes} "
            f"and the file at byte {file_bytes}"
        )


def _check_extensions(head: bytes, start: int, end: int) -> None:
    """Refuse what the header extensions refer to; ``end``: where they must have ended."""
    at = start
    while at + 8 <= min(end, len(head)):
        kind, length = struct.unpack_from(">II", head, at)
        if kind == _EXTENSION_END:
            return
        if kind in (_EXTENSION_DATA_FILE, _EXTENSION_CRYPTO):
            what = "an external data file" if kind == _EXTENSION_DATA_FILE else "an encryption header"
            raise InvalidImage(f"the qcow2 file names {what}: convert it to a plain one with qemu-img convert")
        at += 8 + (length + 7) // 8 * 8
    if at > end:
        raise InvalidImage("corrupt qcow2 header: a header extension runs over its end")


def _backing(head: bytes, offset: int, length: int) -> str:
    if offset == 0:
        return ""
    if not 0 < length <= 1023 or offset + length > len(head):
        raise InvalidImage(f"corrupt qcow2 header: a backing file name of {length} bytes at offset {offset}")
    return head[offset : offset + length].decode(errors="backslashreplace")
