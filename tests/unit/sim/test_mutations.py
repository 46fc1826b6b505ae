"""The list of mutations fits the source, and a patch does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

import metastack
from metastack.lab.sim.mutation.all import MUTATIONS, Mutation, Patch
from metastack.lab.sim.mutation.mutant import Stale, patched
from metastack.lab.sim.mutation.run import catchers, judge, remember, remembered

SOURCES = Path(metastack.__file__).parent
TESTS = Path(__file__).parents[2]
SOURCE = """
def one():
    if True:
        return 1

class Two:
    def one(self):
        if True:
            return 2
"""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_patch_fits(mutation: Mutation) -> None:
    by_module: dict[str, list[Patch]] = {}
    for patch in mutation.patches:
        by_module.setdefault(patch.module, []).append(patch)
    for module, patches in by_module.items():
        source = (SOURCES / f"{module.replace('.', '/')}.py").read_text()
        changed = patched(source, patches)
        compile(changed, module, "exec")
        assert changed != source
    for name in mutation.seen_by:
        assert ":" in name or (TESTS / "scenarios" / name / "script").exists(), name


def test_names_are_unique_and_there_are_controls() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 95
    assert [mutation.name for mutation in MUTATIONS if mutation.harmless and not mutation.patches]


def test_a_patch_touches_only_its_function() -> None:
    changed = patched(SOURCE, [Patch("m", "Two.one", "if True:", "if False:")])
    assert changed.count("if True:") == 1
    assert changed.index("if True:") < changed.index("if False:")


@pytest.mark.parametrize(("function", "old"), [("three", "if"), ("one", "if False"), ("Two.two", "if")])
def test_a_patch_that_does_not_fit_is_stale(function: str, old: str) -> None:
    with pytest.raises(Stale):
        patched(SOURCE, [Patch("m", function, old, "")])


def test_the_last_finder_is_asked_first(tmp_path: Path) -> None:
    mutation = next(mutation for mutation in MUTATIONS if mutation.name == "plan-epoch")
    (tmp_path / "sim").mkdir()
    remember(tmp_path, [])
    assert remembered(tmp_path) == {}
    (tmp_path / "sim" / "mutations.json").write_text('{"plan-epoch": "seed:7"}')
    assert catchers(mutation, tmp_path, 9)[0] == "seed:7"


def test_a_last_finder_that_was_renamed_is_not_asked(tmp_path: Path) -> None:
    mutation = next(mutation for mutation in MUTATIONS if mutation.name == "plan-epoch")
    (tmp_path / "sim").mkdir()
    (tmp_path / "sim" / "mutations.json").write_text('{"plan-epoch": "test:unit/gone.py"}')
    assert "test:unit/gone.py" not in catchers(mutation, tmp_path, 9)


def test_a_mutation_is_found_and_the_finder_named() -> None:
    mutation = next(mutation for mutation in MUTATIONS if mutation.name == "fence-brake")
    verdict = judge(mutation, TESTS, 1, 60)
    assert verdict.ok, verdict
    assert verdict.catcher.startswith("scenario:")
