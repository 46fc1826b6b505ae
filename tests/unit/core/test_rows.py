"""What the world keeps of a record gives back an equal record, whatever somebody wrote into it."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastack.core.model import Claim, Ha, Nic, Phase, Placement, Power, VmId, VmSpec, VmStatus, Volume
from metastack.core.protocol.transaction import Batch, Entry, KeyEvent, Snapshot
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import encode
from metastack.core.state.compact_records import RECENT, Row, Rows, Seen, shared
from metastack.core.state.keys import Keys, Kind

KEYS = Keys()
UUID = "ad1e400b-88e0-41a9-b885-aec912ec2ae1"

idents = st.one_of(
    st.uuids().map(str),
    st.uuids().map(lambda one: one.hex),
    st.uuids().map(lambda one: str(one).upper()),
    st.sampled_from(["", "-" * 36, "0" * 32, UUID + "\n", UUID[:-1], "é" * 36, "٠" * 32]),
    st.text(max_size=40),
)
times = st.one_of(
    st.datetimes().map(lambda one: one.isoformat(timespec="milliseconds") + "Z"),
    st.datetimes().map(lambda one: one.isoformat(timespec="seconds") + "Z"),
    st.sampled_from(["", "2026-01-01T00:00:00.000Z\n", "2026-01-01T00:00:00.00Z", "٢026-01-01T00:00:00Z"]),
    st.text(max_size=30),
)
numbers = st.integers(0, 1 << 62)
texts = st.text(max_size=10)
seens = st.tuples(numbers, numbers, numbers, numbers)
specs = st.builds(
    VmSpec, v=st.sampled_from([1, 2]), project=st.just("default"), name=st.just("vm-1"), uuid=idents,
    image=texts, image_uuid=idents, volume_uuid=idents, cpus=st.integers(1, 9), memory_mib=numbers,
    disk_bytes=numbers, paused_epoch=numbers,
    nics=st.lists(st.builds(Nic, bridge=texts, mac=texts), max_size=3).map(tuple),
    labels=st.dictionaries(texts, texts, max_size=3), created=times, by=texts, reason=texts, request_id=idents,
)  # fmt: skip
claims = st.builds(
    Claim, node=texts, session=numbers, uuid=idents, volume_uuid=idents, claim_id=idents, epoch=numbers,
    generation=numbers, taken_from=texts, was_paused=st.booleans(),
    to_release=st.booleans(), v=st.sampled_from([1, 2]),
)  # fmt: skip
statuses = st.builds(
    VmStatus, uuid=idents, phase=st.sampled_from(Phase), node=texts, session=numbers, epoch=st.integers(),
    ips=st.lists(texts, max_size=2).map(tuple), since=times, message=texts, crashes=numbers, retry_at=times,
    vnc=texts, ready=st.booleans(),
)  # fmt: skip
volumes = st.builds(
    Volume, uuid=st.just(UUID), project=st.just("default"), vm=texts, vm_uuid=idents, size_bytes=numbers,
    image_uuid=idents, pool=texts, last_node=texts,
)  # fmt: skip
NAMES = {Kind.VOLUME: ("default", UUID)}


@given(
    st.one_of(
        st.tuples(st.just(Kind.VM_SPEC), specs), st.tuples(st.just(Kind.CLAIM), claims),
        st.tuples(st.just(Kind.VM_STATUS), statuses), st.tuples(st.just(Kind.VOLUME), volumes),
    ),
    seens,
)  # fmt: skip
def test_what_is_kept_gives_back_what_was_seen(
    of: tuple[Kind, Any], numbers: tuple[int, int, int, int]
) -> None:
    kind, record = of
    mod, create, lease, check = numbers
    found = Seen(record, mod, create, lease, check=check)
    rows = Rows()
    kept = rows.of(kind, found)
    back = Rows().whole(kind, NAMES.get(kind, ("default", "vm-1")), kept)  # it has not seen it lately
    assert back == found
    assert encode(back.ok) == encode(record)
    assert rows.whole(kind, (), kept) is found
    if isinstance(kept, Row):
        assert kept.mod == mod
        assert kept.numbers == numbers


def _spec(n: int) -> VmSpec:
    return VmSpec(
        project="default", name=f"vm-{n}", uuid=f"ad1e400b-88e0-41a9-b885-{n:012x}", image="debian",
        image_uuid=UUID, volume_uuid=f"bd1e400b-88e0-41a9-b885-{n:012x}", cpus=2, memory_mib=1024, disk_bytes=1,
        nics=(Nic(bridge="br0", mac=f"52:54:00:00:00:{n & 255:02x}"),), created="2026-01-01T00:00:00.000Z",
        by="admin", request_id=f"{n:016x}",
    )  # fmt: skip


def _claim(n: int) -> Claim:
    spec = _spec(n)
    return Claim(node="n1", session=5, uuid=spec.uuid, volume_uuid=spec.volume_uuid, claim_id=f"{n:032x}")


def _entry(n: int, key: str, value: bytes) -> Entry:
    return Entry(key, value, 10 + n, 10 + n, 1)


def _entries(count: int) -> list[Entry]:
    found = []
    for n in range(count):
        vm = VmId("default", f"vm-{n}")
        found.append(_entry(n, KEYS.vm_spec(vm), encode(_spec(n))))
        found.append(_entry(n, KEYS.claim(vm), encode(_claim(n))))
    return found


@pytest.mark.parametrize("listed", [True, False])
def test_a_world_of_many_tells_the_same_as_of_few(listed: bool) -> None:
    count, world = 3 * RECENT, ClusterState(KEYS)
    entries = _entries(count)
    if listed:
        world.load(Snapshot(1000, tuple(entries)))
    else:
        for entry in entries:
            world.apply(Batch(entry.mod_revision, (KeyEvent(entry.key, entry.mod_revision, entry),)))
    for n in range(count):
        vm = VmId("default", f"vm-{n}")
        spec, claim = world.spec(vm), world.claim(vm)
        assert spec is not None and spec.ok == _spec(n) and spec.mod == 10 + n
        assert claim is not None and msgspec.structs.replace(claim.ok, epoch=0) == _claim(n)
        assert claim.ok.epoch == 10 + n
    assert {vm.name: found.ok for vm, found in world.specs()} == {f"vm-{n}": _spec(n) for n in range(count)}
    assert world.unfenced("n1") == count and world.unfenced("n2") == 0
    assert world.load(Snapshot(2000, tuple(entries))) == set()


OTHER: dict[type, Any] = {int: 77, str: "other", bool: True}
"""Another value for a field of a type."""


@pytest.mark.parametrize("kind", [Kind.VM_SPEC, Kind.CLAIM, Kind.VM_STATUS, Kind.VOLUME])
def test_records_that_differ_in_any_field_are_told_apart(kind: Kind) -> None:
    """Also in one that is added some day: it must be in the shape's key or among what is a VM's own."""
    some: dict[Kind, Any] = {
        Kind.VM_SPEC: _spec(1),
        Kind.CLAIM: _claim(1),
        Kind.VM_STATUS: VmStatus(uuid=UUID, phase=Phase.RUNNING, node="n1", session=5, epoch=7, ready=False),
        Kind.VOLUME: Volume(
            uuid=UUID, project="default", vm="vm-1", vm_uuid=UUID, size_bytes=1, image_uuid=UUID
        ),
    }
    special: dict[str, Any] = {
        "phase": Phase.FAILED, "power": Power.OFF, "ips": ("10.0.0.1",), "labels": {"a": "b"},
        "taken_before": ("n7",), "drift": ("x",),
        "resources": {"gpu": 1}, "placement": Placement(node="n1"), "ha": Ha(priority=3),
        "made": True,
        "nics": (Nic(bridge="br1", mac="52:54:00:00:00:01"), Nic(bridge="br2", mac="52:54:00:00:00:02")),
    }  # fmt: skip
    record, rows = some[kind], Rows()
    for field in msgspec.structs.fields(record):
        if field.name in ("project", "name") or (kind is Kind.VOLUME and field.name == "uuid"):
            continue  # its key's
        old = getattr(record, field.name)
        new = special.get(field.name, OTHER.get(type(old)))
        assert new is not None and new != old, f"no other value for {field.name}"
        other = msgspec.structs.replace(record, **{field.name: new})
        kept = [rows.of(kind, Seen(one, 1, 1, check=n)) for n, one in enumerate((record, other))]
        rows._recent.clear()
        names = NAMES.get(kind, ("default", "vm-1"))
        assert [rows.whole(kind, names, one).ok for one in kept] == [record, other], field.name


def test_a_number_too_large_for_a_row_is_kept_as_it_is() -> None:
    status = VmStatus(uuid=UUID, phase=Phase.RUNNING, node="n1", session=1 << 70, epoch=-(1 << 70))
    found: Seen[VmStatus] = Seen(status, 1, 1, check=3)
    assert Rows().of(Kind.VM_STATUS, found) is found


def test_shapes_are_shared_by_vms_that_differ_in_what_is_their_own() -> None:
    rows = Rows()
    one, two = (rows.of(Kind.VM_SPEC, Seen(_spec(n), n, n, check=n)) for n in (1, 2))
    assert shared(one) is shared(two)
    assert shared(rows.of(Kind.VM_SPEC, Seen(msgspec.structs.replace(_spec(3), cpus=3), 3, 3))).cpus == 3


def test_forgotten_vms_leave_nothing_behind() -> None:
    world = ClusterState(KEYS)

    def there_and_gone(first: int, count: int) -> None:
        for n in range(first, first + count):
            for entry in _entries_of(n):
                world.apply(Batch(2 * n, (KeyEvent(entry.key, 2 * n, entry),)))
            for entry in _entries_of(n):
                world.apply(Batch(2 * n + 1, (KeyEvent(entry.key, 2 * n + 1, None),)))

    tracemalloc.start()
    try:
        there_and_gone(1, 500)  # those seen last are kept whole, always as many
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        there_and_gone(1000, 500)
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert left < 500 * 50, f"{left} B for 500 VMs that are gone"
    assert world.vms() == set()


def _entries_of(n: int) -> list[Entry]:
    vm = VmId("default", f"vm-{n}")
    return [_entry(n, KEYS.vm_spec(vm), encode(_spec(n))), _entry(n, KEYS.claim(vm), encode(_claim(n)))]
