"""The wheel builds, and a machine with the CLI alone needs neither libvirt nor Ceph for it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]


def _run(*argv: str, **more: object) -> subprocess.CompletedProcess[str]:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("METASTACK", "PYTHON"))
    }
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=280, check=False, env=environment, **more
    )  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    done = _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(TOP))
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_package_and_its_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for part in (
        "metastack/cli/main.py",
        "metastack/agent/main.py",
        "metastack/py.typed",
        "metastack/lab/dev/guest-init.sh",
    ):
        assert part in names, part
    assert any(name.endswith("LICENSE") for name in names)
    assert not any(name.startswith(("tests", "bench")) for name in names)


def test_the_cli_alone_needs_no_libvirt_and_no_ceph(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    assert _run("/usr/bin/python3", "-m", "venv", str(venv)).returncode == 0
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    locked = _run(*pip, "--require-hashes", "-r", str(TOP / "deploy" / "requirements.lock"))
    assert locked.returncode == 0, locked.stderr
    installed = _run(*pip, "--no-deps", str(wheel))
    assert installed.returncode == 0, installed.stderr
    found = _run(str(venv / "bin" / "python"), "-c", "import libvirt")
    assert found.returncode != 0, "this venv was to have no libvirt"
    metastack = str(venv / "bin" / "metastack")
    said = _run(metastack, "version", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "0.1.0" in said.stdout
    unreachable = _run(metastack, "vm", "list", "--endpoint", "http://127.0.0.1:1", cwd=tmp_path)
    assert unreachable.returncode == 7, unreachable.stderr
    assert "127.0.0.1:1" in unreachable.stderr
