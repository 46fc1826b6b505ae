"""Every scenario: its judges are content, its expectations hold, its log is the one that was read and kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from metastack.lab.sim.runs.scenario import scenario

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[1] / "scenarios").glob("*/script"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_scenario(folder: Path) -> None:
    outcome = scenario(folder)
    assert outcome.violations == []
    update = f"metastack sim scenario --update {folder}"
    assert not outcome.difference, "\n".join([*outcome.difference, f"read it; is it right: {update}"])


def test_there_are_enough_and_each_says_what_it_is_about() -> None:
    assert len(FOLDERS) >= 60
    for folder in FOLDERS:
        assert (folder / "README.md").read_text().startswith("# ")
        assert (folder / "log.expect").exists(), folder.name
