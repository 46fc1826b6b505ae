"""The bench harness: percentiles, limits, exit codes, the raw record."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

# The benches are no part of the package: they are found from the checkout's top.
sys.path.insert(0, str(Path(__file__).parents[3]))

from bench import __main__ as entry
from bench.gate_whole import added
from bench.harness import Result, percentile, row, table


@pytest.mark.parametrize(
    ("samples", "percent", "expected"),
    [
        ([5.0], 50, 5.0),
        ([1.0, 2.0, 3.0, 4.0], 50, 2.0),
        ([float(n) for n in range(1, 101)], 95, 95.0),
        ([1.0, 9.0], 95, 9.0),
    ],
)
def test_percentile(samples: list[float], percent: float, expected: float) -> None:
    assert percentile(samples, percent) == expected


def test_nothing_measured_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


def test_a_limit_is_held_against_p95() -> None:
    samples = [1.0] * 94 + [10.0] * 6
    assert not row("x", "s", samples, limit=5).ok
    assert row("x", "s", samples, limit=10).ok
    assert row("x", "s", samples).ok


def test_a_limit_above_the_baseline() -> None:
    assert row("x", "s", [1.2], baseline=[1.0], above_baseline=0.3).ok
    missed = row("x", "s", [1.4], baseline=[1.0], above_baseline=0.3)
    assert (missed.ok, missed.limit, missed.baseline_p95) == (False, 1.3, 1.0)
    with pytest.raises(ValueError, match="baseline"):
        row("x", "s", [1.0], above_baseline=0.3)


def test_the_table_names_what_was_missed() -> None:
    assert "MISSED" in table([row("slow", "s", [2.0], limit=1)])
    assert "MISSED" not in table([row("fine", "s", [1.0], limit=1)])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("bench.fake")
    monkeypatch.setitem(sys.modules, "bench.fake", module)
    monkeypatch.setattr(entry, "BENCHES", {"fake": "nothing"})
    return module


@pytest.mark.parametrize(("value", "status"), [(1.0, 0), (3.0, 1)])
def test_exit_status_json_and_raw_record(
    fake: ModuleType, tmp_path: Path, value: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.run = lambda runs: Result(rows=[row("a", "ms", [value] * (runs or 1), limit=2)], raw={"why": "test"})  # type: ignore[attr-defined]
    found = entry.main(
        ["fake", "--runs", "4", "--json", str(tmp_path / "rows"), "--results", str(tmp_path / "raw")]
    )
    assert found == status
    (one,) = json.loads((tmp_path / "rows").read_text())
    assert set(one) == {"name", "unit", "n", "p50", "p95", "baseline_p50", "baseline_p95", "limit", "ok"}
    assert (one["n"], one["ok"], one["baseline_p50"]) == (4, status == 0, None)
    (raw,) = (tmp_path / "raw").glob("fake-*.json")
    record = json.loads(raw.read_text())
    assert record["raw"] == {"why": "test"}
    assert record["command"][:2] == ["deploy/bench", "fake"]
    assert record["commit"] is None or len(record["commit"]) == 40
    assert record["rows"] == [one]


def test_a_bench_that_cannot_run_fails_the_whole(
    fake: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(runs: int | None) -> Result:
        raise RuntimeError("no etcd here")

    fake.run = run  # type: ignore[attr-defined]
    assert entry.main(["--results", str(tmp_path)]) == 1
    assert "no etcd here" in capsys.readouterr().err


def test_an_unknown_bench_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as left:
        entry.main(["tides"])
    assert left.value.code == 2


def test_a_paired_interval_ignores_shared_block_effects() -> None:
    blocks = [([shared + 0.1, shared + 0.11], [shared, shared + 0.01]) for shared in (1.0, 2.0, 3.0, 4.0, 5.0)]
    middle, low, high = added(blocks)
    assert (middle, low, high) == tuple(pytest.approx(0.1, abs=0.011) for _ in range(3))
    assert added([([1.0], [1.0]), ([2.0], [2.0])]) == (0.0, 0.0, 0.0)
