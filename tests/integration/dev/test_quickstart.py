"""The quickstart itself: the whole story on real parts, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from residue import snapshot

from metastack.lab.dev import guest
from metastack.lab.dev.layout import cache

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.libvirt]
SOURCE = Path(__file__).parents[3] / "src"


def story(
    *options: str, prefix: tuple[str, ...] = (), env: dict[str, str] | None = None, status: int = 0
) -> str:
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "metastack.lab.dev.quickstart", *options],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + (done.stderr if status else "")


def metastack(*words: str) -> str:
    argv = (sys.executable, "-m", "metastack.cli.main", "--context", "qs", *words)
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.ceph
def test_a_vm_survives_the_loss_of_its_node(lab: Path) -> None:
    before = snapshot(lab)
    said = story("--exit", "--storage", "ceph", "--name", "qs")
    print(said)
    assert "boot=1 " in said
    assert "boot=2 " in said
    assert said.rstrip().endswith("all of it was seen")
    assert snapshot(lab) == before


def test_with_files_and_twice(lab: Path) -> None:
    assert "export PATH=" in story("--storage", "file", "--name", "qs")
    uuid = json.loads(metastack("vm", "show", "hello", "-o", "json"))["uuid"]
    metastack("vm", "label", "hello", "made-by-")
    assert "did not make" in story("--storage", "file", "--name", "qs", status=1)
    assert json.loads(metastack("vm", "show", "hello", "-o", "json"))["uuid"] == uuid, "not its own: it stays"
    assert "It stays" in story("--exit", "--storage", "file", "--name", "qs", status=1)
    assert json.loads(metastack("vm", "show", "hello", "-o", "json"))["uuid"] == uuid, "nor with --exit"
    metastack("vm", "label", "hello", "made-by=quickstart")
    said = story("--exit", "--storage", "file", "--name", "qs")
    print(said)
    assert "is left from an earlier run" in said
    assert "boot=2 " in said


def test_without_root(person: str) -> None:
    entry = pwd.getpwnam(person)
    home = Path(entry.pw_dir)
    state = Path(tempfile.mkdtemp(prefix="plain", dir="/tmp"))
    os.chown(state, entry.pw_uid, entry.pw_gid)
    (state / ".cache").mkdir()
    shutil.copy(guest.image(cache()), state / ".cache")
    subprocess.run(["chown", "-R", person, str(state / ".cache")], check=True)
    runtime = f"/tmp/ms-{entry.pw_uid}-"
    before = snapshot(state, runtime)
    ids = ("--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid), "--clear-groups")
    prefix = ("setpriv", *ids, "env", "-i", "-C", str(home))
    settings = {
        "HOME": str(home),
        "USER": person,
        "LOGNAME": person,
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(SOURCE),
        "METASTACK_DEV_STATE": str(state),
    }
    words = tuple(f"{key}={value}" for key, value in settings.items())
    try:
        said = story("--exit", prefix=(*prefix, *words))
        print(said)
        assert "not root" in said, "it says what it lacks"
        assert "boot=2 " in said
        assert snapshot(state, runtime) == before
    finally:
        shutil.rmtree(state)
