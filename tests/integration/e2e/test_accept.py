"""The drill that an operator runs on real hosts (deploy/accept), here on simulated ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]
ACCEPT = Path(__file__).parents[3] / "deploy" / "accept"
PROGRAM = f"{sys.executable} -m metastack.cli.main"
STEPS = ["health", "kvm", "clocks", "network", "boot", "power", "isolate"]


def accept(lab: Lab, report: Path, *words: str) -> tuple[int, str, dict[str, str]]:
    """Exit status, what it said, and each step's result."""
    name = lab.cluster.layout.name
    argv = [sys.executable, str(ACCEPT), "--image", "tiny", "--context", name, "--memory", "96MiB"]
    argv += ["--metastack", PROGRAM, "--report", str(report), "--accept-tcg", *words]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280, check=False
    )
    print(done.stdout, done.stderr)
    # A node that the drill switched on is another process than the one that this one knows.
    lab.cluster.reread()
    steps = json.loads(report.read_text())["steps"]
    return done.returncode, done.stdout, {step["step"]: step["result"] for step in steps}


def test_the_drill_is_passed_with_everything_done(lab: Lab, tmp_path: Path) -> None:
    dev = {
        "--power-off": "kill-node {node}",
        "--power-on": "start-node {node}",
        "--isolate": "cut {node} --from etcd",
        "--heal": "heal {node}",
    }
    name = lab.cluster.layout.name
    words = [part for flag, verb in dev.items() for part in (flag, f"{PROGRAM} dev {verb} --name {name}")]
    status, said, steps = accept(lab, tmp_path / "report.json", "--ssh", "env", *words)
    assert steps == dict.fromkeys(STEPS, "passed")
    assert (status, said.splitlines()[-1]) == (0, "accepted")
    assert said.count("receipt: ") == 2
    assert not [vm for vm in lab.json("vm", "list") if vm["name"].startswith("accept-")]


def test_what_was_not_run_is_not_accepted(lab: Lab, tmp_path: Path) -> None:
    left_out = [part for step in ("clocks", "boot", "isolate") for part in ("--skip", step)]
    status, said, steps = accept(lab, tmp_path / "report.json", *left_out)
    assert status == 1
    assert steps["power"] == "not run", "no terminal, no command"
    assert said.splitlines()[-1] == "not accepted: clocks, boot, power, isolate"
    assert steps["health"] == "passed"


def test_a_clock_that_is_off_is_named(lab: Lab, tmp_path: Path) -> None:
    left_out = [part for step in STEPS if step not in ("health", "clocks") for part in ("--skip", step)]
    wrong = f"{sys.executable} -c 'import time; print(time.time() - 600)'"
    status, said, steps = accept(lab, tmp_path / "report.json", "--ssh", wrong, *left_out)
    assert (status, steps["clocks"]) == (1, "FAILED")
    assert "off by 600" in said or "off by 599" in said
