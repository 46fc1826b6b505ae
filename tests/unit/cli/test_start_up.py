"""What a command imports: the start-up figures depend on it, so it is looked at directly."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import sys
from metastack.cli.main import run
status = run(sys.argv[1:])
print("LOADED", status, *sorted({name.split(".")[0] for name in sys.modules}
    | {name for name in sys.modules if name.startswith("metastack.")}))
"""
HEAVY = {"rich", "structlog", "libvirt", "rados", "rbd", "yaml", "uvloop", "h2"}


def loaded(*argv: str) -> set[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("METASTACK_")}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *argv],
        env={**env, "METASTACK_CONFIG": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1].split()[1] == "0" or argv[0] not in ("--help", "--version"), done
    return set(done.stdout.splitlines()[-1].split()[2:])


@pytest.mark.parametrize(
    "words", [("--help",), ("version",), ("--version",), ("context", "list"), ("vm", "create", "--help")]
)
def test_no_connection_no_grpc(words: tuple[str, ...]) -> None:
    found = loaded(*words)
    assert found & (HEAVY | {"grpc", "aetcd", "google"}) == set()


def test_help_imports_no_noun() -> None:
    assert {name for name in loaded("--help") if name.startswith("metastack.cli.")} == {
        "metastack.cli.main",
        "metastack.cli.frame",
        "metastack.cli.streams",
    }
    assert "pydantic" not in loaded("--help")


def test_a_list_imports_grpc_and_nothing_heavier() -> None:
    found = loaded("vm", "list", "--endpoint", "unix:/nonexistent", "-o", "json")
    assert "grpc" in found
    assert found & HEAVY == set()


INTERRUPTED = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from metastack.cli.__main__ import main
main()
"""


def test_ctrl_c_while_importing_prints_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
