"""The one judgement of a mark: whose an object is, and what may be done with it."""

from __future__ import annotations

import pytest

from metastack.ports import UNMARKED, Mark, NotOurs, Standing
from metastack.ports.ownership import Found, parsed, refuse_to_remove, refuse_to_use, standing, written

OURS = Mark(cluster="c1", kind="disk", record="u1")


def found(mark: Mark = OURS, ident: str = "id1") -> Found | None:
    return parsed(written(mark, ident))


@pytest.mark.parametrize(
    ("on_it", "ident", "is_"),
    [
        (found(), "id1", Standing.OURS),
        (None, "id1", Standing.NONE),
        (found(), "id2", Standing.COPY),
        (found(Mark(cluster="c2", kind="disk", record="u1")), "id1", Standing.OTHER),
        (found(Mark(cluster="c1", kind="disk", record="u2")), "id1", Standing.OTHER),
        (found(Mark(cluster="c1", kind="image", record="u1")), "id1", Standing.OTHER),
        (parsed(b"no mark at all"), "id1", Standing.OTHER),
    ],
)
def test_a_mark_is_ours_on_its_own_object_alone(on_it: Found | None, ident: str, is_: Standing) -> None:
    assert standing(on_it, ident, OURS) is is_


def test_only_ours_goes_and_what_a_record_of_before_names() -> None:
    refuse_to_remove("vm-u1", found(), "id1", OURS, unmarked=False)
    refuse_to_remove("vm-u1", None, "id1", OURS, unmarked=True)
    for on_it, ident in (
        (None, "id1"),
        (found(), "id2"),
        (found(Mark(cluster="c2", kind="disk", record="u1")), "id1"),
    ):
        with pytest.raises(NotOurs, match="vm-u1"):
            refuse_to_remove("vm-u1", on_it, ident, OURS, unmarked=False)
    with pytest.raises(NotOurs, match="a copy"):
        refuse_to_remove("vm-u1", found(), "id2", OURS, unmarked=True)


def test_an_unfinished_clone_may_be_removed() -> None:
    image = found(Mark(cluster="c1", kind="image", record="i1"), "image's")
    refuse_to_remove("vm-u1", image, "id1", OURS, unmarked=True)
    with pytest.raises(NotOurs):
        refuse_to_remove("vm-u1", image, "id1", OURS, unmarked=False)
    assert refuse_to_use("vm-u1", image, "id1", OURS)


def test_without_a_cluster_id_nothing_that_is_marked_is_touched() -> None:
    refuse_to_remove("vm-u1", None, "id1", UNMARKED, unmarked=False)
    assert not refuse_to_use("vm-u1", None, "id1", UNMARKED)
    for on_it in (found(), found(UNMARKED)):
        with pytest.raises(NotOurs):
            refuse_to_remove("vm-u1", on_it, "id1", UNMARKED, unmarked=True)
        with pytest.raises(NotOurs):
            refuse_to_use("vm-u1", on_it, "id1", UNMARKED)


def test_another_s_is_not_used_and_a_copy_is_marked() -> None:
    assert not refuse_to_use("vm-u1", found(), "id1", OURS)
    assert refuse_to_use("vm-u1", found(), "id2", OURS)
    with pytest.raises(NotOurs, match="it is the disk u2 of cluster c1"):
        refuse_to_use("vm-u1", found(Mark(cluster="c1", kind="disk", record="u2")), "id1", OURS)
