"""Listing everything again: what nobody wrote since is kept as it is, everything else is looked at."""

from __future__ import annotations

from placement_rig import KEYS, spec

from metastack.core.model import Claim, VmId
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import encode
from metastack.core.transaction import Batch, Delete, Entry, KeyEvent, Put, Snapshot, Transaction

VM = VmId("default", "v")


def entry(memory_mib: int = 512, mod: int = 5, create: int = 5, lease: int = 0) -> Entry:
    return Entry(KEYS.vm_spec(VM), encode(spec("v", memory_mib=memory_mib)), create, mod, 1, lease)


def test_what_nobody_wrote_is_not_decoded_again() -> None:
    world = ClusterState(KEYS)
    world.load(Snapshot(5, (entry(),)))
    before = world.spec(VM)
    assert world.load(Snapshot(9, (entry(),))) == set()
    assert world.spec(VM) is before


def test_everything_else_is() -> None:
    for other in (entry(mod=6), entry(create=4), entry(lease=7), entry(memory_mib=1024)):
        world = ClusterState(KEYS)
        world.load(Snapshot(5, (entry(),)))
        world.load(Snapshot(9, (other,)))
        found = world.spec(VM)
        assert found is not None and found.record is not None
        assert (found.mod, found.create, found.lease) == (
            other.mod_revision,
            other.create_revision,
            other.lease,
        )
        assert encode(found.record) == other.value


def test_an_equal_revision_of_another_history_is_seen() -> None:
    world = ClusterState(KEYS)
    world.load(Snapshot(5, (entry(),)))
    world.restart()
    changed = world.load(Snapshot(5, (entry(memory_mib=1024),)))
    assert changed == {KEYS.parse(KEYS.vm_spec(VM))}
    assert world.spec(VM).ok.memory_mib == 1024  # type: ignore[union-attr]


def test_what_could_not_be_read_is_read_again() -> None:
    world = ClusterState(KEYS)
    broken = Entry(KEYS.vm_spec(VM), b"{", 5, 5, 1)
    for _ in range(2):
        world.load(Snapshot(5, (broken,)))
        assert world.spec(VM).record is None  # type: ignore[union-attr]


def _written(*effects: Put | Delete) -> Transaction:
    return Transaction(name="claim", guards=(), effects=effects)


def test_a_later_view_without_the_change_lacks_it() -> None:
    key, claim = KEYS.vm_spec(VM), KEYS.claim(VM)
    world = ClusterState(KEYS)
    world.load(Snapshot(5, (entry(),)))
    put, gone = _written(Put(key, b"")), _written(Delete(key))
    assert world.lacks(put, 5) == ""
    assert world.lacks(put, 7) == ""  # it is on its way
    world.apply(Batch(7, ()))
    assert world.lacks(put, 7) == key  # an older version
    assert world.lacks(put, 6) == key
    assert world.lacks(gone, 7) == key  # still there
    world.apply(Batch(8, (KeyEvent(key, 8, entry(mod=8)),)))
    assert world.lacks(put, 7) == ""  # written again since
    assert world.lacks(gone, 7) == ""  # made anew since
    never = _written(Put(claim, b""))
    assert world.lacks(never, 8) == claim
    assert world.lacks(never, 7) == ""  # may have been deleted since
    assert world.lacks(_written(Delete(claim)), 8) == ""
    told = _written(Put(KEYS.prefix() + "events/1", b""), Put("/elsewhere", b""))
    assert world.lacks(told, 8) == ""  # nobody watches those


def test_a_claim_without_a_spec_means_lost_events() -> None:
    key, claim = KEYS.claim(VM), Claim(node="n1", session=3, uuid="u", volume_uuid="v", claim_id="c")

    def put(mod: int, create: int) -> Batch:
        return Batch(mod, (KeyEvent(key, mod, Entry(key, encode(claim), create, mod, 1)),))

    world = ClusterState(KEYS)
    world.load(Snapshot(5, ()))
    world.apply(put(7, 6))
    assert not world.missed_key, "moved or adopted: its spec may have gone since"
    world.apply(put(8, 8))
    assert world.missed_key == key, "made just now, and it compared the spec"
    world.load(Snapshot(9, (entry(),)))
    assert not world.missed_key
    world.apply(put(10, 10))
    assert not world.missed_key
