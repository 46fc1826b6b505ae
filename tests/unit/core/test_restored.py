"""After a restore: who is waited for, what is proven, what the raise takes with it."""

from __future__ import annotations

import pytest

from metastack.core import plan
from metastack.core.domains import Domain, DomainState
from metastack.core.model import (
    Claim,
    Fence,
    FenceReceipt,
    Generation,
    NodeFacts,
    Record,
    Refusal,
    VmId,
    token,
)
from metastack.core.protocol import fences
from metastack.core.protocol.restored import away, held, raise_generation, uncovered, waits_for
from metastack.core.state.cluster_state import ClusterState, Seen
from metastack.core.state.codec import decode, encode
from metastack.core.state.fence_proof import UNBLOCKED
from metastack.core.state.keys import DEFAULT_ROOT, Keys
from metastack.core.transaction import Delete, Entry, Put, Snapshot

KEYS = Keys(DEFAULT_ROOT)
VM = VmId("default", "v")
OLD, NEW = token(0, 50), token(1, 60)


def world_of(*records: tuple[str, Record], generation: int = 1) -> ClusterState:
    world = ClusterState(KEYS)
    said = ((KEYS.generation(), Generation(generation=generation)),) if generation else ()
    entries = tuple(Entry(key, encode(record), 5, 5, 1) for key, record in (*said, *records))
    world.load(Snapshot(100, entries))
    return world


def facts(name: str, generation: int = 0, **more: object) -> tuple[str, NodeFacts]:
    return KEYS.node_facts(name), NodeFacts(name=name, uuid=f"u-{name}", generation=generation, **more)  # type: ignore[arg-type]


def claim(node: str, epoch: int) -> tuple[str, Claim]:
    return KEYS.claim(VM), Claim(
        node=node, session=OLD, uuid="uuid", volume_uuid="vol", claim_id="c", epoch=epoch
    )


def domain(epoch: int = OLD, session: int = OLD, uuid: str = "uuid") -> Domain:
    return Domain(
        uuid=uuid, project="default", name="v", state=DomainState.RUNNING, session=session, epoch=epoch
    )


def test_nobody_is_waited_for_before_any_restore() -> None:
    world = world_of(facts("n1"), facts("n2"), generation=0)
    assert (waits_for(world), held(world), away(world, "n1")) == ((), "", "")


def test_each_node_is_awaited_until_back_or_fenced() -> None:
    done = Fence(through=NEW, generation=1)
    world = world_of(facts("n1", 1), facts("n2"), facts("n3"), (KEYS.fence("n3"), done))
    assert waits_for(world) == ("n2",)
    assert "n2" in held(world)
    assert away(world, "n2")
    assert not away(world, "n1")


def test_a_fence_of_before_the_restore_counts_for_nothing() -> None:
    world = world_of(facts("n2"), (KEYS.fence("n2"), Fence(through=OLD)))
    assert waits_for(world) == ("n2",)


def test_a_refusing_node_without_records_is_waited_for() -> None:
    told = Refusal(name="n9", uuid="u-n9", why="it is not the etcd that it has seen")
    assert waits_for(world_of(facts("n1", 1), (KEYS.refusal("n9"), told))) == ("n9",)


def test_a_removed_host_is_waited_for_only_with_claims() -> None:
    gone = Fence(through=OLD - 1, receipt=FenceReceipt(at="t", by="a person", method="unblocked"))
    assert waits_for(world_of(facts("n2"), (KEYS.fence("n2"), gone))) == ()
    assert waits_for(world_of(facts("n2"), (KEYS.fence("n2"), gone), claim("n2", OLD))) == ("n2",)
    addressed = facts("n2", storage_addresses=("10.0.0.2",))
    assert waits_for(world_of(addressed, (KEYS.fence("n2"), gone))) == ("n2",)


def test_an_unreadable_generation_opens_nothing() -> None:
    world = ClusterState(KEYS)
    entries = [Entry(key, encode(record), 5, 5, 1) for key, record in (facts("n1", 1), facts("n2"))]
    world.load(Snapshot(100, (*entries, Entry(KEYS.generation(), b"{", 6, 6, 1))))
    assert waits_for(world) == ("n2",)


def test_only_a_claim_of_this_very_run_proves_a_domain() -> None:
    proven = world_of(claim("n1", OLD))
    assert uncovered(proven, "n1", [domain()]) == []
    for world, found in (
        (proven, domain(epoch=OLD + 1)),
        (proven, domain(uuid="another")),
        (world_of(claim("n2", OLD)), domain()),
        (world_of(), domain()),
    ):
        assert uncovered(world, "n1", [found]) == [found]
    assert uncovered(world_of(), "n1", [domain(session=NEW)]) == []  # of this generation: the rulebook's


def test_raising_ends_sessions_and_records_refusals() -> None:
    told = Refusal(name="n9", uuid="u-n9", why="w", storage_addresses=("10.0.0.9",))
    moved = Refusal(name="n1", uuid="u-n1", why="w", storage_addresses=("10.0.1.1",))
    other = Refusal(name="n2", uuid="another machine", why="w", storage_addresses=("10.0.1.2",))
    old = NodeFacts(name="n1", uuid="u-n1", storage_addresses=("10.0.0.1",))
    world = world_of(facts("n2"))
    change = raise_generation(
        KEYS, world.generation_seen(), 2, [(told, None), (moved, Seen(old, 8, 8)), (other, world.facts("n2"))]
    )
    puts = {effect.key: effect.value for effect in change.effects if isinstance(effect, Put)}
    assert decode(Generation, puts[KEYS.generation()]).generation == 2
    assert decode(NodeFacts, puts[KEYS.node_facts("n9")]).storage_addresses == ("10.0.0.9",)
    assert decode(NodeFacts, puts[KEYS.node_facts("n1")]).storage_addresses == ("10.0.0.1", "10.0.1.1")
    assert KEYS.node_facts("n2") not in puts
    (gone,) = [effect for effect in change.effects if isinstance(effect, Delete)]
    assert gone.key <= KEYS.node_alive("zz") < gone.range_end
    assert not gone.key <= KEYS.vm_status(VM) < gone.range_end
    assert {guard.key: guard.value for guard in change.guards} == {
        KEYS.generation(): 5, KEYS.node_facts("n9"): 0, KEYS.node_facts("n1"): 8,
    }  # fmt: skip


def fence_view(**more: object) -> plan.FenceSnapshot:
    fields: dict[str, object] = {
        "victim": "n2", "node": "n1", "session": NEW, "ready": True, "victim_alive": False,
        "absent_for_s": 99.0, "grace_s": 0.5, "unfenced_claims": 1, "fence": None,
        "fencer_alive": False, "working": False, "braked": "", "rank": 0, "waited_s": 99.0,
        "rank_delay_s": 0.03, "generation": 1,
    }  # fmt: skip
    return plan.FenceSnapshot(**{**fields, **more})  # type: ignore[arg-type]


def test_a_manual_fence_replaces_a_restored_intent() -> None:
    old = Seen(Fence(intent=True, intent_by="n2", intent_session=OLD, through=7), 9, 9)
    change = fences.intent_by_hand(KEYS, "n1", old, 1, "now", "it is off")
    put = change.effects[0]
    assert isinstance(put, Put)
    written = decode(Fence, put.value)
    assert (written.intent_by, written.generation, written.through) == (fences.BY_HAND, 1, 7)
    receipt = FenceReceipt(at="", by="", method=UNBLOCKED)
    lifted = fences.lifted(KEYS, "n1", old, None, receipt, None, 1).effects[0]
    assert isinstance(lifted, Put)
    assert not decode(Fence, lifted.value).intent
    for refused in (
        lambda: fences.intent_by_hand(KEYS, "n1", old, 0, "now", "it is off"),
        lambda: fences.lifted(KEYS, "n1", old, None, receipt, None, 0),
    ):
        with pytest.raises(ValueError, match="is open"):
            refused()


def test_only_a_person_fences_an_absent_node_after_restore() -> None:
    def fence(generation: int) -> Seen[Fence]:
        return Seen(Fence(intent=True, intent_by="(by hand)", generation=generation), 9, 9)

    assert plan.plan_fence(fence_view()) == plan.OpenIntent()
    assert plan.plan_fence(fence_view(away="not back")) == plan.Idle("not back")
    assert plan.plan_fence(fence_view(away="not back", fence=fence(0))) == plan.Idle("not back")
    assert plan.plan_fence(fence_view(away="not back", fence=fence(1))) == plan.TakeOverIntent()
