"""Whatever a shell gives the program as its streams, it ends with a status and one line at most."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metastack.cli.streams import printable

PROGRAM = (sys.executable, "-m", "metastack.cli.main")
CONTEXTS = """
current = "blaü"
[contexts.a.store]
endpoints = ["http://tür:2379"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONTEXTS)
    return path


def run(
    config: Path, *words: str | bytes, stdout: object = subprocess.PIPE, shell: str = "", **env: str
) -> subprocess.CompletedProcess[bytes]:
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("METASTACK_", "LC_", "LANG"))
    }
    argv: list[str | bytes] = [*PROGRAM, *words]
    if shell:
        argv = ["/bin/sh", "-c", f'"$@" {shell}', "sh", *argv]
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=stdout,  # type: ignore[call-overload]
        stderr=subprocess.PIPE,
        env={**kept, "METASTACK_CONFIG": str(config), **env},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_another_encoding_escapes(config: Path, encoding: str) -> None:
    done = run(config, "context", "list", "-o", "wide", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done
    assert "http://tür:2379".encode(encoding, "backslashreplace") in done.stdout
    assert done.stderr == b""


@pytest.mark.parametrize(
    "words", [("version",), ("--help",), ("vm", "--help"), ("context", "list", "-o", "json")]
)
@pytest.mark.parametrize("shell", [">/dev/full", ">&-"])
def test_stdout_that_takes_nothing(config: Path, words: tuple[str, ...], shell: str) -> None:
    done = run(config, *words, shell=shell)
    assert done.returncode == 1, done
    assert done.stderr.count(b"\n") == 1, done
    said = done.stderr.decode()
    assert "the output cannot be written: " in said and ("No space" in said or "Bad file" in said), said
    if "json" in words:
        assert json.loads(said)["error"]["code"] == "failed"


@pytest.mark.parametrize("shell", ["<&-", "2>&-", "2>/dev/full", "<&- 2>&-"])
def test_the_other_streams_are_nobodys_trouble(config: Path, shell: str) -> None:
    done = run(config, "context", "list", "-o", "name", shell=shell)
    assert (done.returncode, done.stdout) == (0, b"a\n"), done
    wrong = run(config, "context", "use", "none", shell=shell)
    assert wrong.returncode == 3, wrong
    asked = run(config, "vm", "delete", "web", shell=shell)
    assert asked.returncode != 0 and b"Traceback" not in asked.stderr, asked


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_files_name_need_not_be_text(config: Path, output: str) -> None:
    done = run(
        config,
        "image",
        "import",
        "x",
        b"/nowhere/t\xfcr\xff.raw",
        "--endpoint",
        "http://127.0.0.1:1",
        "-o",
        output,
    )
    assert done.returncode == 3, done
    said = done.stderr.decode()
    assert "bug" not in said and "r\\xff.raw" in said, said


def test_printable() -> None:
    assert printable("tür") == "tür"
    assert printable(os.fsdecode(b"t\xc3\xbcr\xff")) == "tür\\xff"
    assert printable("\ud83d") == "\\ud83d"
