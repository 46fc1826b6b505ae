"""The count of claims that no fence reaches is that of the claims that there are, whatever changed them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from placement_rig import KEYS

from metastack.core.model import Claim, Fence, VmId
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import encode
from metastack.core.transaction import Batch, Entry, KeyEvent, Snapshot

NODES, SESSIONS, VMS = ("a", "b"), (1 << 40, 2 << 40, 3 << 40), ("x", "y", "z")
STEPS = st.one_of(
    st.tuples(st.just("claim"), st.sampled_from(VMS), st.sampled_from(NODES), st.sampled_from(SESSIONS)),
    st.tuples(st.just("release"), st.sampled_from(VMS)),
    st.tuples(st.just("fence"), st.sampled_from(NODES), st.sampled_from(SESSIONS)),
    st.tuples(st.just("damage"), st.sampled_from(VMS)),
    st.tuples(st.just("list")),
)


def counted(world: ClusterState, node: str) -> int:
    records = [found.record for _, found in world.claims()]
    mine = [claim for claim in records if claim is not None and claim.node == node]
    return sum(1 for claim in mine if claim.session > world.fenced_through(node))


def check(world: ClusterState) -> None:
    assert [world.unfenced(node) for node in NODES] == [counted(world, node) for node in NODES]


def entry(key: str, value: bytes, revision: int) -> Entry:
    return Entry(key, value, revision, revision, 1)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=12))
def test_it_is_what_counting_gives(steps: list[tuple[object, ...]]) -> None:
    world, there = ClusterState(KEYS), dict[str, Entry]()
    for revision, (what, *more) in enumerate(steps, start=2):
        match what, more:
            case "claim", [vm, node, session]:
                claim = Claim(node=node, session=session, uuid="u", volume_uuid="v", claim_id="c")  # type: ignore[arg-type]
                key, value = KEYS.claim(VmId("default", str(vm))), encode(claim)
            case "fence", [node, through]:
                key, value = KEYS.fence(str(node)), encode(Fence(through=through))  # type: ignore[arg-type]
            case "damage", [vm]:
                key, value = KEYS.claim(VmId("default", str(vm))), b"{"
            case "release", [vm]:
                key, value = KEYS.claim(VmId("default", str(vm))), b""
            case _:
                # What a watch lost: the list has other claims than the world knows.
                there = {key: one for key, one in there.items() if not key.endswith(("x", "y"))}
                world.load(Snapshot(revision, tuple(there.values())))
                check(world)
                continue
        there.pop(key, None)
        if value:
            there[key] = entry(key, value, revision)
        world.apply(Batch(revision, (KeyEvent(key, revision, there.get(key)),)))
        check(world)
