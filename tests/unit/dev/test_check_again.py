"""deploy/again: a failed test that passes alone is a flake; a fault, a proof and many failures are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
PLUGIN = (CHECKOUT / "tests" / "conftest.py").read_text()

FLAKY = """
from pathlib import Path
def test_it():
    seen = Path(__file__).with_name("seen")
    if not seen.exists():
        seen.touch()
        assert False, "the first time only"
"""
BROKEN = "def test_it(): assert False, 'always'"


def proof(text: str) -> str:
    return "import pytest\n" + text.replace("def test_it", "@pytest.mark.proof\ndef test_it")


def check(folder: Path, *texts: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on modules of these texts, then deploy/again on what failed."""
    (folder / "conftest.py").write_text(PLUGIN)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  proof: x\n")
    for number, text in enumerate(texts):
        (folder / str(number)).mkdir()
        (folder / str(number) / f"test_{number}.py").write_text(text)
    failed = folder / "failed.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    environment = {**os.environ, "METASTACK_FAILURES": str(failed)}
    first = subprocess.run(
        [*command, str(folder)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert first.returncode, first.stdout
    return subprocess.run(
        [sys.executable, str(CHECKOUT / "deploy" / "again"), str(failed), *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_flake_prints_both_logs(tmp_path: Path) -> None:
    done = check(tmp_path, FLAKY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FLAKE 0/test_0.py::test_it" in done.stdout
    assert "the first time only" in done.stdout
    assert "1 passed" in done.stdout


def test_a_fault_beside_a_flake_fails(tmp_path: Path) -> None:
    done = check(tmp_path, FLAKY, BROKEN)
    assert done.returncode == 1
    assert "FLAKE 0/test_0.py::test_it" in done.stdout
    assert "FAILED again 1/test_1.py::test_it" in done.stdout


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ((proof(FLAKY),), "a failed proof is never repeated: 0/test_0.py::test_it"),
        ((FLAKY,) * 5, "5 tests failed"),
        (("import nothing_of_that_name",), "pytest ended with 2"),
    ],
)
def test_what_is_no_flake_is_not_repeated(tmp_path: Path, texts: tuple[str, ...], why: str) -> None:
    done = check(tmp_path, *texts)
    assert done.returncode == 1
    assert why in done.stdout
    assert "once more" not in done.stdout


def test_without_the_file_nothing_is_a_flake(tmp_path: Path) -> None:
    gone = tmp_path / "gone.json"
    gone.write_text(json.dumps({"exit": 1, "failed": []}))
    for file in (gone, tmp_path / "never"):
        done = subprocess.run(
            [sys.executable, str(CHECKOUT / "deploy" / "again"), str(file), "true"], timeout=60, check=False
        )
        assert done.returncode == 1
