"""A node is one machine, and a libvirt has one agent: whoever comes second is refused, and no guest notices."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from e2e_lab import Lab

from metastack.lab.dev import proc
from metastack.lab.dev.host import Host

pytestmark = [pytest.mark.proof, pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]

REFUSED_WITHIN_S = 40.0


@contextmanager
def agent_beside(host: Host, folder: Path, **changed: Any) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """One more agent inside a host, with that host's settings but for ``changed``; its process and its log."""
    settings = tomllib.loads(host.agent_config.read_text())
    settings |= {"run_dir": str(folder / "run"), "console_listen": f"{host.address}:7999", **changed}
    config, log = folder / "agent.toml", folder / "agent.log"
    config.write_text(tomli_w.dumps(settings))
    argv = [sys.executable, "-m", "metastack.cli.main", "agent", "run", "--config", str(config)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            host.enter(*argv), env=host.environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
        try:
            yield process, log
        finally:
            # nsenter runs it as a child of its own.
            family = [*proc.descendants(process.pid), *filter(None, [proc.observe(process.pid)])]
            proc.stop(family, how=signal.SIGKILL)
            process.wait(20)


def test_a_second_agent_on_a_libvirt_is_refused(lab: Lab, tmp_path: Path) -> None:
    lab.create("alone", "--node", "n2")
    before, boots = lab.qemu("n2"), lab.boots("alone")
    with agent_beside(lab.cluster.host("n2"), tmp_path, name="n9", state_dir=str(tmp_path)) as (second, log):
        lab.until("the second agent ended", lambda: second.poll() is not None, REFUSED_WITHIN_S)
        assert second.returncode == 1, log.read_text()
        assert "n2" in log.read_text()
    assert lab.qemu("n2") == before
    assert lab.vm("alone")["phase"] == "running"
    assert lab.boots("alone") == boots
    lab.do("vm", "delete", "alone", "--yes")


def test_a_clone_of_a_living_host_does_not_hurt_it(lab: Lab, tmp_path: Path) -> None:
    lab.create("original", "--node", "n1")
    before, boots, session = lab.qemu("n1"), lab.boots("original"), lab.node("n1")["session"]
    host = lab.cluster.host("n3")
    shutil.copytree(lab.cluster.host("n1").folder / "agent", tmp_path / "agent")
    host.stop_agent()
    try:
        with agent_beside(host, tmp_path, name="n1", state_dir=str(tmp_path / "agent")) as (clone, log):
            said = '"event":"node_name_taken"'
            lab.until("the clone is refused", lambda: said in log.read_text(), REFUSED_WITHIN_S)
            assert clone.poll() is None, log.read_text()
            assert not lab.qemu("n3"), log.read_text()
            assert lab.node("n1")["session"] == session, log.read_text()
            assert lab.node("n1")["state"] == "ready", log.read_text()
    finally:
        host.start_agent()
    assert lab.qemu("n1") == before
    assert lab.boots("original") == boots
    lab.do("vm", "delete", "original", "--yes")
    lab.until_all_ready()
