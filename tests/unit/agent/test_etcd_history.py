"""The past: which etcd is believed, and for how long none is."""

from __future__ import annotations

from pathlib import Path

import pytest

from metastack.agent.session.etcd_history import EtcdHistory
from metastack.agent.session.state_files import StateFiles
from metastack.core.domains import Domain, DomainState
from metastack.core.model import Generation, NodeFacts, token
from metastack.core.state.codec import encode
from metastack.core.state.keys import DEFAULT_ROOT, Keys
from metastack.core.transaction import Entry, Snapshot

KEYS = Keys(DEFAULT_ROOT)


def shot(revision: int, *, cluster: int = 7, term: int = 2, generation: int = 0, me: bool = True) -> Snapshot:
    entries = []
    if me:
        facts = encode(NodeFacts(name="n1", uuid="u"))
        entries.append(Entry(KEYS.node_facts("n1"), facts, 2, 2, 1))
    if generation:
        entries.append(Entry(KEYS.generation(), encode(Generation(generation=generation)), 3, 3, 1))
    return Snapshot(revision, tuple(entries), cluster, term)


@pytest.fixture
def state_files(tmp_path: Path) -> StateFiles:
    found = StateFiles(tmp_path / "n1")
    found.lock()
    found.begin_joined()
    return found


def past_of(state_files: StateFiles) -> EtcdHistory:
    return EtcdHistory("n1", KEYS, state_files)


def judged(past: EtcdHistory, snapshot: Snapshot) -> bool:
    return past.judge(snapshot, past.floor)


def test_what_grows_is_believed(state_files: StateFiles) -> None:
    past = past_of(state_files)
    assert judged(past, shot(10))
    assert judged(past, shot(10, term=3))
    assert judged(past, shot(12, term=3))
    assert past.floor.revision == 12


@pytest.mark.parametrize(
    ("snapshot", "why"),
    [
        (shot(9), "at revision 9"),
        (shot(50, cluster=8), "another etcd"),
        (shot(50, term=2), "raft term is 2"),
        (shot(50, term=3, me=False), "does not know node n1"),
    ],
    ids=["revision", "cluster", "term", "stranger"],
)
def test_what_cannot_be_the_same_history_is_not(state_files: StateFiles, snapshot: Snapshot, why: str) -> None:
    past = past_of(state_files)
    assert judged(past, shot(10, term=3))
    said: list[str] = []
    past.noticed = lambda: said.append(past.why)
    assert not judged(past, snapshot)
    assert not judged(past, snapshot)
    assert why in past.why
    assert len(said) == 1  # once, when it begins


def test_grown_revisions_prove_nothing_after_a_restart(state_files: StateFiles) -> None:
    past = past_of(state_files)
    assert judged(past, shot(10))
    assert not judged(past, shot(9))
    assert not judged(past, shot(1000))
    assert not judged(past_of(state_files), shot(2000))


def test_the_true_etcd_is_believed_again(state_files: StateFiles) -> None:
    past = past_of(state_files)
    assert judged(past, shot(10))
    assert not judged(past, shot(50, cluster=8))
    assert judged(past, shot(10))
    assert not past.why


def test_a_raised_generation_is_another_history(state_files: StateFiles) -> None:
    past = past_of(state_files)
    begun: list[int] = []
    past.restarted = lambda: begun.append(past.floor.revision)
    assert judged(past, shot(100))
    assert not judged(past, shot(40, cluster=8))
    assert judged(past, shot(41, cluster=8, generation=1))
    assert begun == [41]
    assert judged(past, shot(42, cluster=8, generation=1))
    assert not judged(past, shot(200, generation=0))  # and the old one is not
    again = past_of(state_files)
    assert (again.known.generation, again.known.cluster_id) == (1, 8)
    assert not judged(
        again, shot(500, cluster=9, generation=1)
    )  # restored again, raised to what was used before


def test_a_foreign_cluster_of_a_higher_generation_changes_nothing(state_files: StateFiles) -> None:
    past = past_of(state_files)
    assert judged(past, shot(10))
    assert not judged(past, shot(99, cluster=9, generation=5, me=False))
    assert past.known.generation == 0
    assert judged(past, shot(11))


def test_an_answer_of_another_history_is_noticed(state_files: StateFiles) -> None:
    past = past_of(state_files)
    assert judged(past, shot(10))
    floor = past.floor
    past.note_revision(20)  # the watch ran ahead of the answer
    assert past.answered(floor, 11, 7)
    assert not past.answered(past.floor, 12, 7)
    assert "revision 12" in past.why


def test_answers_of_an_earlier_history_are_ignored(state_files: StateFiles) -> None:
    """A node that comes back after a restore lists twice at once: its informer and its session."""
    past = past_of(state_files)
    assert judged(past, shot(100))
    floor = past.floor
    assert judged(past, shot(41, cluster=8, generation=1))
    assert not past.judge(shot(42, cluster=8, generation=1), floor)
    assert not past.judge(shot(101), floor)  # of the old one, and late
    assert not past.answered(floor, 43, 8)
    assert not past.answered(floor, 200, 7)
    assert not past.why and past.known.revision == 41
    assert judged(past, shot(44, cluster=8, generation=1))


def test_a_guest_remembers_what_the_mark_had_no_time_for(state_files: StateFiles) -> None:
    past = past_of(state_files)
    assert judged(past, shot(10))
    domain = Domain(
        uuid="u", project="p", name="v", state=DomainState.RUNNING, session=token(0, 9), epoch=token(0, 10)
    )
    past.note_domain_epochs((domain,))
    assert not past.why
    late = Domain(
        uuid="u", project="p", name="v", state=DomainState.RUNNING, session=token(0, 9), epoch=token(0, 11)
    )
    past.note_domain_epochs((late,))
    assert "revision 11" in past.why


def test_a_node_that_joins_again_forgets(state_files: StateFiles, tmp_path: Path) -> None:
    past = past_of(state_files)
    assert judged(past, shot(100))
    assert not judged(past, shot(5, cluster=9, me=False))
    (tmp_path / "n1" / "joined").unlink()
    assert judged(past, shot(6, cluster=9, me=False))
    assert past.floor.revision == 6
