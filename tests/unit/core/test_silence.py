"""A living node whose storage is silent: when it is fenced, and what the transaction compares."""

from __future__ import annotations

import msgspec
import pytest

from metastack.core.model import Fence, NodeAlive, NodeFacts, Silenced
from metastack.core.plan import Idle
from metastack.core.protocol import silence
from metastack.core.protocol.guards import OwnSession
from metastack.core.protocol.silence import FenceSilent, SilenceSnapshot, intent_silent, plan_silent
from metastack.core.state.cluster_state import ClusterState, Seen
from metastack.core.state.codec import decode, encode
from metastack.core.state.keys import Keys
from metastack.core.transaction import Delete, Entry, Put, Snapshot

KEYS = Keys("/metastack")
ME = OwnSession(node="n2", session=7, lease=1)
SILENT = Seen(NodeAlive(name="n1", ready=True, storage_ok=False, storage_silent_since="14:00"), 50, 5)
WORD = Seen(NodeAlive(name="n3", ready=True, storage_proved=60), 70, 6)
DUE = SilenceSnapshot(
    session=7,
    ready=True,
    lost_s=120,
    remote_fence=True,
    unfenced_claims=1,
    fence=None,
    silent_for_s=130.0,
    answers_me_for_s=500.0,
    few_for_s=500.0,
    witness="n3",
    too_many="",
    last=None,
    last_open=False,
    last_for_s=0.0,
    rank=0,
    rank_delay_s=0.03,
)
OPEN = Seen(Fence(intent=True, intent_by="n3", intent_session=9), 80, 80)
MARK = Seen(Silenced(node="n4", by="n3"), 40, 40)


def test_everything_is_as_it_should_be() -> None:
    assert plan_silent(DUE) == FenceSilent()


@pytest.mark.parametrize(
    "but",
    [
        {"session": 0},
        {"ready": False},
        {"lost_s": 0},
        {"remote_fence": False},
        {"unfenced_claims": 0},
        {"fence": OPEN},
        {"fence": Seen(None, 3, 3, 0, "broken")},
        {"silent_for_s": 119.0},
        {"answers_me_for_s": 119.0},
        {"answers_me_for_s": 0.0},
        {"few_for_s": 119.0},
        {"witness": ""},
        {"too_many": "2 of 3"},
        {"last": MARK, "last_for_s": 500.0, "last_open": True},
        {"last": MARK, "last_for_s": 100.0},
        {"last": Seen(None, 3, 3, 0, "broken"), "last_for_s": 500.0},
        {"rank": None},
        {"rank": 100},
    ],
    ids=lambda but: "-".join(but),
)
def test_nobody_is_fenced_for_it(but: dict[str, object]) -> None:
    assert isinstance(plan_silent(msgspec.structs.replace(DUE, **but)), Idle)


def test_another_may_follow_in_time() -> None:
    assert plan_silent(msgspec.structs.replace(DUE, last=MARK, last_for_s=121.0)) == FenceSilent()


def test_the_transaction_ends_the_session_that_it_reaches() -> None:
    change = intent_silent(KEYS, ME, "n1", SILENT, ("n3", WORD), None, MARK, at="now")
    assert {(g.key, g.field, g.value) for g in change.guards} == {
        (KEYS.node_alive("n1"), "mod", 50),
        (KEYS.fence("n1"), "mod", 0),
        (KEYS.node_alive("n3"), "mod", 70),
        (KEYS.silenced(), "mod", 40),
        (KEYS.maintenance(), "mod", 0),
        (KEYS.node_alive("n2"), "create", 7),
    }
    assert Delete(KEYS.node_alive("n1")) in change.effects
    put = next(e for e in change.effects if isinstance(e, Put) and e.key == KEYS.fence("n1"))
    fence = decode(Fence, put.value)
    assert (fence.intent, fence.intent_by, fence.intent_through) == (True, "n2", 0)
    assert "n3" in fence.intent_reason


@pytest.mark.parametrize(
    ("alive", "word"),
    [
        (msgspec.structs.replace(SILENT, record=NodeAlive(name="n1", ready=True)), WORD),
        (SILENT, msgspec.structs.replace(WORD, record=NodeAlive(name="n3", ready=True, storage_proved=49))),
        (SILENT, msgspec.structs.replace(WORD, record=NodeAlive(name="n3", storage_proved=60))),
        (SILENT, msgspec.structs.replace(WORD, record=NodeAlive(name="n3", ready=True, storage_ok=False))),
    ],
    ids=["it-answers", "proved-before", "not-ready", "silent-itself"],
)
def test_without_a_proof_there_is_no_transaction(alive: Seen[NodeAlive], word: Seen[NodeAlive]) -> None:
    with pytest.raises(ValueError, match="nothing proves"):
        intent_silent(KEYS, ME, "n1", alive, ("n3", word), None, None)


def test_its_number_stays_while_it_says_other_things() -> None:
    again = NodeAlive(name="n1", ready=True, storage_silent_since="14:00", storage_silent_at=50)
    assert silence.silent_at(SILENT) == silence.silent_at(Seen(again, 90, 5)) == 50
    assert silence.silent_at(Seen(NodeAlive(name="n1", ready=True), 90, 5)) == 0
    assert silence.silent_at(None) == silence.silent_at(Seen(None, 3, 3)) == 0


@pytest.mark.parametrize(
    ("silent", "gone", "holds"), [(1, 0, False), (1, 1, False), (2, 1, True), (3, 0, True)]
)
def test_most_nodes(silent: int, gone: int, holds: bool) -> None:
    entries = []
    for number in range(1, 5):
        name = f"n{number}"
        entries.append((KEYS.node_facts(name), NodeFacts(name=name, uuid=name)))
        if number > gone:
            since = "14:00" if number <= gone + silent else ""
            alive = NodeAlive(name=name, ready=True, storage_ok=not since, storage_silent_since=since)
            entries.append((KEYS.node_alive(name), alive))
    world = ClusterState(KEYS)
    told = tuple(Entry(key, encode(record), 5, 5, 1) for key, record in entries)
    world.load(Snapshot(9, told))
    assert bool(silence.too_many(world)) is holds
