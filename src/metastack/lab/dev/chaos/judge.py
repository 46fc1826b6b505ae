"""The judge: what records and acknowledgements prove. Pure.

Owns: the verdict on one disk. Refuses: reading disks, waiting, and believing agents.
Rule: a violation is stated with the records that show it.

# Why it would see a second writer: an instance starts from the highest record that it reads and every record
# names the sum of the one before. Of two instances that write at once, either one's record is overwritten by
# the other's of the same number (an acknowledged write is lost, or the next record's PREV fits no more), or
# they go on with each other's numbers, which their PREV does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from msgspec import Struct, field

from .ring import SLOTS, START, Ack, Record


class ViolationKind(StrEnum):
    OVERLAP = "overlap"
    """Records of two instances interleave, or their chain is forked."""
    LOST_WRITE = "lost-write"
    """What was acknowledged is not on the disk, or not any more."""
    DAMAGED = "damaged"
    """The ring holds what no guest writes."""
    STUCK = "stuck"
    """A VM or node did not come back in time."""
    BRAKE_UNSAID = "brake-unsaid"
    """Nothing was fenced because too many nodes were gone, and nobody said so."""


_Accuse = Callable[[ViolationKind, str], None]


class Violation(Struct, frozen=True, kw_only=True):
    crime: ViolationKind
    vm: str
    what: str


class Known(Struct, kw_only=True):
    """What earlier readings of one disk showed: it may never change."""

    records: dict[int, Record] = field(default_factory=dict)
    unseen: dict[int, Ack] = field(default_factory=dict)
    """Acknowledged, and overwritten by the ring's next round before anybody read it."""


def judge(
    vm: str, records: Sequence[Record], damaged: Sequence[str], acks: Iterable[Ack], known: Known
) -> list[Violation]:
    """Look at one reading of a disk; every acknowledgement in ``acks`` was heard before that reading.

    Adds the reading to ``known``.
    """
    found: list[Violation] = []

    def accuse(crime: ViolationKind, what: str) -> None:
        found.append(Violation(crime=crime, vm=vm, what=what))

    for text in damaged:
        accuse(ViolationKind.DAMAGED, text)
    for record in records:
        before = known.records.get(record.seq)
        if before is not None and before != record:
            accuse(ViolationKind.LOST_WRITE, f"{_told(before)} was on the disk, and now {_told(record)} is")
    newest = records[-1].seq if records else 0
    if known.records and newest < (last := max(known.records)):
        accuse(
            ViolationKind.LOST_WRITE, f"{_told(known.records[last])} was on the disk, now it ends with {newest}"
        )
    _gaps(records, accuse)
    known.records.update((record.seq, record) for record in records)
    _chain(sorted(known.records.values(), key=lambda record: record.seq), accuse)
    _acknowledged(acks, newest, known, accuse)
    return found


def _gaps(records: Sequence[Record], accuse: _Accuse) -> None:
    if not records:
        return
    newest, there = records[-1].seq, {record.seq for record in records}
    missing = [seq for seq in range(max(1, newest - SLOTS + 1), newest + 1) if seq not in there]
    if missing:
        accuse(ViolationKind.LOST_WRITE, f"records {_ranges(missing)} are missing below {newest}")


def _chain(records: Sequence[Record], accuse: _Accuse) -> None:
    """One writer after another: every link fits, and no instance writes again after its successor began."""
    over: set[str] = set()
    before: Record | None = None
    for record in records:
        if before is None or before.seq + 1 != record.seq:
            if before is None and record.seq == 1 and record.prev != START:
                accuse(ViolationKind.OVERLAP, f"{_told(record)} is the first, and follows {record.prev}")
        elif record.prev != before.sum:
            accuse(
                ViolationKind.OVERLAP,
                f"{_told(record)} follows {record.prev}, but before it lies {_told(before)}",
            )
        if before is not None and record.inst != before.inst:
            over.add(before.inst)
        if record.inst in over:
            accuse(ViolationKind.OVERLAP, f"{_told(record)}: instance {record.inst} had been succeeded already")
            over.discard(record.inst)  # said once for each return
        before = record


def _acknowledged(acks: Iterable[Ack], newest: int, known: Known, accuse: _Accuse) -> None:
    for ack in acks:
        record = known.records.get(ack.seq)
        if record is not None and (record.inst, record.sum) != (ack.inst, ack.sum):
            accuse(ViolationKind.LOST_WRITE, f"{_told(ack)} was acknowledged; {_told(record)} lies there")
        elif record is None and ack.seq > newest - SLOTS:
            accuse(ViolationKind.LOST_WRITE, f"{_told(ack)} was acknowledged; the disk ends with {newest}")
        elif record is None:
            known.unseen[ack.seq] = ack


def order(vm: str, acks: Sequence[Ack]) -> list[Violation]:
    """Whether instances followed each other in time, too; ``acks`` in the order in which they were heard."""
    found, over = [], dict[str, Ack]()
    current: Ack | None = None
    for ack in acks:
        if current is not None and ack.inst != current.inst:
            over[current.inst] = ack
        if (successor := over.pop(ack.inst, None)) is not None:
            late_s = ack.heard_s - successor.heard_s
            what = f"{_told(ack)} was acknowledged {late_s:.2f} s after {_told(successor)}"
            found.append(Violation(crime=ViolationKind.OVERLAP, vm=vm, what=what))
        current = ack
    return found


def _told(what: Record | Ack) -> str:
    where = f" on {what.node}, QEMU {what.pid}" if isinstance(what, Ack) and what.node else ""
    return f"{what.seq} of {what.inst} ({what.sum}{where})"


def _ranges(numbers: Sequence[int]) -> str:
    """``3-5, 9``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] + 1 == number:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{low}-{high}" if low != high else str(low) for low, high in parts)
