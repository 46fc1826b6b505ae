"""docs/internals/architecture.md names files and functions that exist."""

from __future__ import annotations

from named_code import PLACE, TOP, missing

PAGE = TOP / "docs" / "internals" / "architecture.md"


def test_every_place_on_the_two_roads_exists() -> None:
    assert missing(PAGE.read_text()) == []


def test_both_roads_name_functions_at_their_steps() -> None:
    one, two = PAGE.read_text().split("## Road one", 1)[1].split("## Road two", 1)
    for road in (one, two):
        assert len([name for _, name in PLACE.findall(road) if name]) > 15
