"""The chaos judge on doctored disks: it says nothing of an honest one, and sees every kind of second writer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastack.lab.dev.chaos.judge import Known, Violation, ViolationKind, judge, order
from metastack.lab.dev.chaos.ring import BYTES, SLOT_BYTES, SLOTS, START, Ack, heard, parse, summed, written


class Disk:
    """A ring that guests write as guest-init.sh does."""

    def __init__(self) -> None:
        self.ring = bytearray(BYTES)
        self.acks: list[Ack] = []

    def boot(self, inst: str) -> Guest:
        records, _ = parse(self.ring)
        last = records[-1] if records else None
        return Guest(self, inst, last.seq if last else 0, last.sum if last else START)

    def judged(self, known: Known | None = None, acks: Sequence[Ack] | None = None) -> list[Violation]:
        records, damaged = parse(self.ring)
        asked = self.acks if acks is None else acks
        return judge("vm1", records, damaged, asked, known or Known()) + order("vm1", asked)


class Guest:
    def __init__(self, disk: Disk, inst: str, seq: int, prev: str) -> None:
        self.disk, self.inst, self.seq, self.prev = disk, inst, seq, prev

    def write(self, count: int = 1, acknowledged: bool = True) -> None:
        for _ in range(count):
            self.seq += 1
            raw = written(self.seq, self.inst, self.prev)
            at = self.seq % SLOTS * SLOT_BYTES
            self.disk.ring[at : at + SLOT_BYTES] = raw
            self.prev = summed(raw)
            if acknowledged:
                now_s = float(len(self.disk.acks))
                self.disk.acks.append(Ack(seq=self.seq, inst=self.inst, sum=self.prev, heard_s=now_s))


def crimes(found: Sequence[Violation]) -> set[ViolationKind]:
    return {violation.crime for violation in found}


def test_an_honest_disk() -> None:
    disk = Disk()
    for number in range(4):
        guest = disk.boot(f"{number:08x}")
        guest.write(7)
        guest.write(acknowledged=False)  # the power went before it could say so
    assert disk.judged() == []


def test_an_honest_disk_passes_many_readings() -> None:
    disk, known, seen = Disk(), Known(), 0
    for number in range(6):
        disk.boot(f"{number:08x}").write(900)
        fresh, seen = disk.acks[seen:], len(disk.acks)
        assert disk.judged(known, fresh) == []
    assert max(known.records) == 5400 and not known.unseen


def test_an_acknowledgement_that_was_overwritten_unread_is_told_apart() -> None:
    disk, known = Disk(), Known()
    disk.boot("0000000a").write(SLOTS + 5)
    assert disk.judged(known) == []
    assert sorted(known.unseen) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("old", [1, 3])
@pytest.mark.parametrize("new", [1, 3])
def test_two_writers_at_once(old: int, new: int) -> None:
    disk = Disk()
    first = disk.boot("0000000a")
    first.write(10)
    second = disk.boot("0000000b")
    second.write(new)
    first.write(old)
    assert ViolationKind.OVERLAP in crimes(disk.judged())
    # The disk alone shows it unless the old one went on for longer and covered every trace of the new one.
    assert crimes(disk.judged(acks=[])) == ({ViolationKind.OVERLAP} if old < new else set())


def test_a_write_of_a_dead_instance_that_lands_late() -> None:
    disk = Disk()
    first = disk.boot("0000000a")
    first.write(10)
    second = disk.boot("0000000b")
    second.write(5)
    first.write(acknowledged=False)  # nobody was told: only the disk knows
    found = disk.judged()
    assert crimes(found) == {ViolationKind.OVERLAP, ViolationKind.LOST_WRITE}
    assert any("11 of 0000000b" in violation.what for violation in found)


def test_the_second_writer_covers_the_first_ones_traces() -> None:
    disk = Disk()
    first = disk.boot("0000000a")
    first.write(10)
    second = disk.boot("0000000b")
    first.write(2)  # after the other one had read the disk
    second.write(5)
    assert crimes(disk.judged(acks=[])) == set(), "the disk alone is a whole chain"
    assert crimes(disk.judged()) == {ViolationKind.LOST_WRITE}
    assert len(disk.judged()) == 2


def test_the_last_acknowledged_write_is_gone() -> None:
    disk = Disk()
    disk.boot("0000000a").write(10)
    at = 10 * SLOT_BYTES
    disk.ring[at : at + SLOT_BYTES] = bytes(SLOT_BYTES)
    (found,) = disk.judged()
    assert found.crime is ViolationKind.LOST_WRITE and "10 of 0000000a" in found.what


def test_a_hole() -> None:
    disk = Disk()
    disk.boot("0000000a").write(10, acknowledged=False)
    for seq in (4, 5, 8):
        disk.ring[seq * SLOT_BYTES : (seq + 1) * SLOT_BYTES] = bytes(SLOT_BYTES)
    (found,) = disk.judged()
    assert found.crime is ViolationKind.LOST_WRITE and "4-5, 8 are missing" in found.what


def test_an_older_state_of_the_disk_came_back() -> None:
    disk, known = Disk(), Known()
    guest = disk.boot("0000000a")
    guest.write(10, acknowledged=False)
    older = bytes(disk.ring)
    guest.write(10, acknowledged=False)
    assert disk.judged(known) == []
    disk.ring[:] = older
    assert crimes(disk.judged(known)) == {ViolationKind.LOST_WRITE}


def test_history_was_rewritten_between_two_readings() -> None:
    disk, known = Disk(), Known()
    guest = disk.boot("0000000a")
    guest.write(10)
    other = Guest(disk, "0000000b", guest.seq - 2, "0" * 16)
    assert disk.judged(known) == []
    other.write(acknowledged=False)
    assert ViolationKind.LOST_WRITE in crimes(disk.judged(known, []))


@pytest.mark.parametrize("raw", [b"x" * SLOT_BYTES, written(4, "0000000a", START), written(3, "zz", START)])
def test_what_is_no_record_in_its_place(raw: bytes) -> None:
    disk = Disk()
    disk.boot("0000000a").write(2)
    disk.ring[3 * SLOT_BYTES : 4 * SLOT_BYTES] = raw
    assert crimes(disk.judged()) == {ViolationKind.DAMAGED}


def test_a_dead_instance_that_speaks_again() -> None:
    def ack(seq: int, inst: str, heard_s: float) -> Ack:
        return Ack(seq=seq, inst=inst, sum=START, heard_s=heard_s)

    assert order("vm1", [ack(1, "a", 1.0), ack(2, "a", 2.0), ack(3, "b", 9.0)]) == []
    (found,) = order("vm1", [ack(1, "a", 1.0), ack(2, "b", 2.0), ack(2, "a", 2.5)])
    assert found.crime is ViolationKind.OVERLAP and "0.50 s after" in found.what


def test_what_a_console_says() -> None:
    whole = "CHAOS ACK 0badcafe 00000012 00112233aabbccdd ."
    assert heard(f"{whole}\r", 5.0, "n1", 7) == Ack(
        seq=12, inst="0badcafe", sum="00112233aabbccdd", heard_s=5.0, node="n1", pid=7
    )
    for broken in (whole[:-2], whole.replace("0012", "12"), f"x{whole}", "CHAOS READY 0badcafe 0", ""):
        assert heard(broken, 5.0) is None


@given(st.lists(st.sampled_from(["old", "new"]), min_size=1, max_size=12), st.integers(1, 5))
def test_whatever_the_order_an_overlap_is_seen(turns: list[str], before: int) -> None:
    """The second one has read the disk; from then on any write of the first one is a crime."""
    disk = Disk()
    first = disk.boot("0000000a")
    first.write(before)
    second = disk.boot("0000000b")
    for turn in turns:
        (first if turn == "old" else second).write()
    honest = "old" not in turns
    # With the new one silent, nobody can tell it from an instance that never wrote: that is no second writer.
    assert (disk.judged() == []) == (honest or "new" not in turns)
