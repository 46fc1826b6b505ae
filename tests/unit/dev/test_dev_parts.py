"""The parts of the one-machine cluster that need no cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from metastack.lab.dev import proc
from metastack.lab.dev.fabric import Subnets
from metastack.lab.dev.layout import Layout, State, clusters
from metastack.ports import NotFound, Refused, Unavailable


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METASTACK_DEV_STATE", str(tmp_path))
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], proc.MARKER: str(folder)}


def test_a_spawned_process_is_known_by_boot_pid_and_start(tmp_path: Path) -> None:
    one = proc.spawn(["sleep", "60"], tmp_path / "log", environment(tmp_path))
    try:
        assert proc.alive(one)
        for wrong in ({"start": one.start + 1}, {"boot": "another"}, {"pid": 1}):
            other = msgspec.structs.replace(one, **wrong)
            assert not proc.alive(other)
            assert not proc.send(other, signal.SIGKILL)
        assert proc.alive(one), "none of them was it"
        # While it changes from the shell to setsid to sleep, a process shows no environment.
        proc.wait_for(
            lambda: proc.marked(tmp_path) == [one], 10.0, lambda: f"{proc.marked(tmp_path)}, not {one}"
        )
        assert proc.marked(tmp_path / "other") == []
    finally:
        proc.stop([one])
    assert not proc.alive(one)


def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 1; done"
    log = tmp_path / "log"
    one = proc.spawn(["sh", "-c", script], log, environment(tmp_path))
    proc.wait_for(lambda: "ready" in log.read_text(), 5, log.read_text)
    proc.stop([one], timeout_s=0.2)
    assert not proc.alive(one)
    proc.stop(proc.marked(tmp_path), how=signal.SIGKILL)


def test_a_failed_programs_output_is_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with contextlib.suppress(Unavailable):  # raised unless it was still seen in its last moment
        proc.spawn(["no-such-program"], log, environment(tmp_path))
    proc.wait_for(lambda: "no-such-program" in proc.tail(log), 5, lambda: proc.tail(log))


def test_a_process_lives_while_a_thread_runs(tmp_path: Path) -> None:
    """After SIGKILL the first thread is a zombie at once; the files are open until the last one has left."""
    only_the_first_thread_ends = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)\n"
    )
    one = proc.spawn([sys.executable, "-c", only_the_first_thread_ends], tmp_path / "log", dict(os.environ))
    try:
        state = Path(f"/proc/{one.pid}/stat")
        proc.wait_for(lambda: state.read_text().rpartition(")")[2].split()[0] == "Z", 10, state.read_text)
        assert proc.alive(one)
    finally:
        proc.send(one, signal.SIGKILL)
    proc.wait_for(lambda: not proc.alive(one), 10, state.read_text)


def test_descendants() -> None:
    with subprocess.Popen(
        ["sh", "-c", "sleep 60 & sleep 60 & echo up; wait"], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        parent.stdout.readline()
        family = proc.descendants(parent.pid)
        assert len(family) == 2
        proc.stop(family, how=signal.SIGKILL)
        assert proc.descendants(parent.pid) == []


def test_the_record(base: Path) -> None:
    layout = Layout("one")
    with pytest.raises(NotFound, match="metastack dev up --name one"):
        layout.need()
    layout.folder.mkdir()
    state = State(name="one", mode="plain", storage="file", index=-1, nodes=["n1"], etcd=1, lease_ttl_s=5)
    layout.save(state)
    assert layout.load() == state
    assert clusters() == ["one"]
    layout.state_file.write_text("{")
    with pytest.raises(Refused, match=r"state\.json"):
        layout.load()
    with layout.locked(), pytest.raises(Refused, match="another command"), Layout("one").locked():
        pass


@pytest.mark.parametrize("name", ["", "Up", "a/b", "-a", "a" * 21, "a b", ".."])
def test_names(base: Path, name: str) -> None:
    with pytest.raises(Refused):
        Layout(name)


def test_addresses_of_one_cluster_are_distinct() -> None:
    subnets = Subnets(3)
    addresses = [subnets.etcd(n) for n in range(3)] + [subnets.ceph] + [subnets.node(n) for n in range(30)]
    assert len(set(addresses)) == len(addresses)
    assert all(address.startswith("10.77.3.") for address in addresses)
    assert not subnets.control.overlaps(subnets.guests)
