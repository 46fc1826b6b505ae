"""The qcow2 header parser against good, wrong and hostile headers."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastack.ports import InvalidImage
from metastack.storage import qcow2

FILE_BYTES = 4 << 20


def header(*, extensions: bytes = bytes(8), name: bytes = b"", **fields: Any) -> bytes:
    """A good version 3 header of a 64 MiB image, with some fields changed."""
    v: dict[str, Any] = {
        "magic": 0x514649FB,
        "version": 3,
        "backing_offset": 0,
        "backing_bytes": len(name),
        "cluster_bits": 16,
        "size": 64 << 20,
        "crypt": 0,
        "l1_entries": 1,
        "l1_offset": 0x30000,
        "refcount_offset": 0x10000,
        "refcount_clusters": 1,
        "snapshots": 0,
        "snapshots_offset": 0,
        "incompatible": 0,
        "compatible": 0,
        "autoclear": 0,
        "refcount_order": 4,
        "header_bytes": 104,
    }
    if name:
        v["backing_offset"] = 104 + len(extensions)
    v.update(fields)
    return struct.pack(">IIQIIQIIQQIIQQQQII", *v.values()) + extensions + name


def test_a_good_header() -> None:
    found = qcow2.parse(header(), FILE_BYTES)
    assert (found.version, found.size_bytes, found.cluster_bytes) == (3, 64 << 20, 65536)


def test_an_overlay_of_ours_is_read_but_never_imported() -> None:
    head = header(name=b"../images/x.raw")
    assert qcow2.read_header(head, FILE_BYTES).backing == "../images/x.raw"
    with pytest.raises(InvalidImage, match="backing file"):
        qcow2.parse(head, FILE_BYTES)


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (header(magic=0x514649FA), "not a qcow2"),
        (header()[:60], "truncated"),
        (header()[:80], "104 bytes"),
        (header(version=1), "version 1"),
        (header(version=4), "version 4"),
        (header(cluster_bits=8), "cluster_bits"),
        (header(cluster_bits=63), "cluster_bits"),
        (header(size=0), "out of range"),
        (header(size=1 << 63), "out of range"),
        (header(size=(64 << 20) + 1), "multiple of 512"),
        (header(crypt=1), "encrypted"),
        (header(crypt=2), "encrypted"),
        (header(incompatible=2), "marked corrupt"),
        (header(incompatible=4), "another file"),
        (header(incompatible=1 << 40), "unknown incompatible"),
        (header(extensions=extension(0x44415441, b"/etc/shadow") + bytes(8)), "external data file"),
        (header(extensions=extension(0x0537BE77, bytes(16)) + bytes(8)), "encryption header"),
        (header(extensions=struct.pack(">II", 0x6803F857, 0xFFFFFFFF)), "runs over"),
        (header(l1_entries=0xFFFFFFFF), "L1 table"),
        (header(l1_offset=0), "L1 table"),
        (header(l1_offset=0x30001), "L1 table"),
        (header(l1_offset=1 << 62), "L1 table"),
        (header(size=1 << 40), "too small"),
        (header(refcount_clusters=0xFFFFFFFF), "refcount table"),
        (header(refcount_offset=1 << 40), "refcount table"),
        (header(refcount_order=7), "refcount_order"),
        (header(header_bytes=1 << 30), "header_length"),
        (header(snapshots=1 << 31), "snapshots"),
        (header(backing_offset=1 << 60, backing_bytes=10), "backing file name"),
        (header(backing_offset=112, backing_bytes=0), "backing file name"),
        (header(backing_offset=112, backing_bytes=1 << 31), "backing file name"),
    ],
)
def test_hostile_headers_are_refused(head: bytes, match: str) -> None:
    with pytest.raises(InvalidImage, match=match):
        qcow2.parse(head, FILE_BYTES)


@given(st.binary(max_size=400), st.integers(0, 1 << 40))
def test_no_bytes_make_it_fail_otherwise(tail: bytes, file_bytes: int) -> None:
    for head in (qcow2.MAGIC + tail, header()[:72] + tail, tail):
        try:
            qcow2.parse(head, file_bytes)
        except InvalidImage:
            pass
