"""The records that a chaos guest leaves on its disk and what it says of them (guest-init.sh), as values.

Owns: the format, both ways. Refuses: judging. Pure.
Rule: what is not exactly a record or an acknowledgement is none, and it is told.
"""

from __future__ import annotations

import hashlib
import re

from msgspec import Struct

SLOTS = 2048
SLOT_BYTES = 512
BYTES = SLOTS * SLOT_BYTES
START = "0" * 16
"""What the very first record has for the sum of its predecessor."""

_RECORD = re.compile(rb"CH1 (\d{8}) ([0-9a-f]{8}) ([0-9a-f]{16}) (\d+) ?([0-9a-fA-F-]*) *\n")
_ACK = re.compile(r"CHAOS ACK ([0-9a-f]{8}) (\d{8}) ([0-9a-f]{16}) \.")


class Record(Struct, frozen=True, kw_only=True):
    """One record as it lies on the disk."""

    seq: int
    inst: str
    """The instance (one boot of the guest) that wrote it."""
    prev: str
    sum: str
    """Of its 512 bytes, as the next record must name it."""
    at: int
    """The guest's clock, seconds; nothing is proven by it."""


class Ack(Struct, frozen=True, kw_only=True):
    """The guest said that this record is durable."""

    seq: int
    inst: str
    sum: str
    heard_s: float
    """When the lab read it, monotonic."""
    node: str = ""
    pid: int = 0
    """The QEMU on whose console it stood."""


def parse(ring: bytes) -> tuple[list[Record], list[str]]:
    """Records by sequence number, and what lies in the ring and is no record in its place."""
    records, damaged = [], []
    for slot in range(min(SLOTS, len(ring) // SLOT_BYTES)):
        raw = ring[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]
        if not raw.strip(b"\0"):
            continue
        found = _RECORD.fullmatch(raw)
        if found is None or int(found[1]) % SLOTS != slot:
            damaged.append(f"slot {slot}: {raw.rstrip()[:120]!r}")
            continue
        records.append(
            Record(
                seq=int(found[1]),
                inst=found[2].decode(),
                prev=found[3].decode(),
                sum=summed(raw),
                at=int(found[4]),
            )
        )
    return sorted(records, key=lambda record: record.seq), damaged


def heard(line: str, heard_s: float, node: str = "", pid: int = 0) -> Ack | None:
    """The acknowledgement in a line of the console; None for anything else."""
    found = _ACK.fullmatch(line.strip())
    if found is None:
        return None
    return Ack(inst=found[1], seq=int(found[2]), sum=found[3], heard_s=heard_s, node=node, pid=pid)


def summed(raw: bytes) -> str:
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()[:16]


def written(seq: int, inst: str, prev: str, at: int = 0, uuid: str = "") -> bytes:
    """The 512 bytes of a record, as the guest makes them."""
    text = f"CH1 {seq:08d} {inst} {prev} {at} {uuid}".encode()
    return text.ljust(SLOT_BYTES - 1) + b"\n"
