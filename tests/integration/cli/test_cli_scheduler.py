"""``metastack scheduler`` and ``metastack balance`` as processes, against a real etcd."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from cli_program import DEADLINE_S, Program
from commands_rig import Rig

from metastack.core.model import ClusterConfig, Fence, Leader, VmId
from metastack.core.state.codec import decode

pytestmark = pytest.mark.etcd


def vm(name: str) -> VmId:
    return VmId("default", name)


async def leads(rig: Rig, name: str) -> None:
    """Wait until that scheduler does."""
    key = rig.keys.leader()
    async with asyncio.timeout(DEADLINE_S):
        async for batch in rig.store.watch(key, 0):
            entry = batch.events[-1].entry if batch.events else None
            if entry is not None and decode(Leader, entry.value).name == name:
                return


async def hinted(rig: Rig, name: str) -> None:
    """Wait until a VM is hinted."""
    async with asyncio.timeout(DEADLINE_S):
        async for batch in rig.store.watch(rig.keys.hint(vm(name)), 0):
            if any(event.entry is not None for event in batch.events):
                return


async def logged(process: asyncio.subprocess.Process, event: str) -> list[dict[str, object]]:
    """What a process logs, up to that event."""
    assert process.stderr is not None
    found: list[dict[str, object]] = []
    async with asyncio.timeout(DEADLINE_S):
        while not found or found[-1]["event"] != event:
            found.append(json.loads(await process.stderr.readline()))
    return found


async def crowded(rig: Rig, program: Program) -> int:
    """n1 runs two small VMs and a large one; the others have capacity for them in one way only."""
    await rig.image()
    await rig.put(rig.keys.cluster(), ClusterConfig(overcommit_cpu=1.0))
    sessions = {name: await rig.node(name, memory_mib=9216, cpus=8) for name in ("n1", "n2", "n3")}
    for name, cpus in (("small1", "2"), ("small2", "2"), ("large", "7")):
        made = await program("vm", "create", name, "--image", "tiny", "--cpus", cpus, "--no-wait")
        assert made.status == 0, made
        await rig.claim("n1", sessions["n1"], vm(name))
    return sessions["n1"]


async def test_two_schedulers_one_at_work(program: Program, rig: Rig) -> None:
    session = await crowded(rig, program)
    nobody = await program("scheduler", "show")
    assert (nobody.status, nobody.out) == (0, "no scheduler leads: the nodes place VMs alone\n")
    run = ("scheduler", "run", "--ttl", "2", "--log-format", "json", "--name")
    first = await program.start(*run, "s1")
    await leads(rig, "s1")
    second = await program.start(*run, "s2")
    try:
        await rig.lose("n1")
        await hinted(rig, "large")
        shown = (await program("scheduler", "show", "-o", "json")).json()
        assert shown["leader"] == "s1" and shown["term"] > 0
        assert {hint["name"] for hint in shown["hints"]} == {"small1", "small2", "large"}
        assert {hint["by"] for hint in shown["hints"]} == {"scheduler/s1"}
        await rig.put(rig.keys.fence("n1"), Fence(through=session))
        told = (await program("vm", "explain", "large", "-o", "json")).json()
        assert told["chosen"] == next(h["node"] for h in shown["hints"] if h["name"] == "large")
        first.kill()
        events = await logged(second, "elected")
        assert (await program("scheduler", "show", "-o", "json")).json()["leader"] == "s2"
        second.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            _, err = await second.communicate()
        assert second.returncode == 0, err
        events += [json.loads(line) for line in err.decode().splitlines()]
        assert {"scheduler_started", "elected", "scheduler_stopped"} <= {event["event"] for event in events}
        assert {event["app"] for event in events} == {"metastack-scheduler"}
        assert (await program("scheduler", "show", "-o", "json")).json()["leader"] is None
    finally:
        for process in (first, second):
            if process.returncode is None:
                process.kill()
            await process.communicate()


UNIT = Path(__file__).parents[3] / "deploy" / "systemd" / "metastack-scheduler.service"


def unit_settings() -> dict[str, list[str]]:
    """What the unit says, section and key to values."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(f"{section}/{key}", []).append(value)
    return found


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/metastack/current/bin/metastack", "/bin/true"))
    told = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


async def test_the_unit_runs_a_scheduler_as_it_stands(program: Program, rig: Rig) -> None:
    """Its command, with its environment and nothing else of a shell's; stopped as systemd stops it."""
    unit = unit_settings()
    assert unit["Unit/Description"][0].startswith("MetaStack scheduler (optional")
    assert set(unit) & {"Install/Alias", "Install/Also"} == set() and unit["Install/WantedBy"] == [
        "multi-user.target"
    ]
    [command], [setting] = unit["Service/ExecStart"], unit["Service/Environment"]
    assert setting == "METASTACK_CONFIG=/etc/metastack/scheduler.toml"
    words = command.split()
    assert words[0] == "/opt/metastack/current/bin/metastack"
    bare = Program({"METASTACK_CONFIG": program.env["METASTACK_CONFIG"]})
    process = await bare.start(*words[1:])
    try:
        name = socket.gethostname().split(".")[0].lower()
        await leads(rig, name)
        process.send_signal(getattr(signal, unit["Service/KillSignal"][0]))
        async with asyncio.timeout(float(unit["Service/TimeoutStopSec"][0])):
            _, err = await process.communicate()
        assert process.returncode == 0, err
        assert {json.loads(line)["app"] for line in err.decode().splitlines()} == {"metastack-scheduler"}
        assert (await program("scheduler", "show", "-o", "json")).json()["leader"] is None
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    # What will be as wrong the next time ends with the status that is not tried again.
    wrong = await bare(*words[1:], "--ttl", "1")
    assert [str(wrong.status)] == unit["Service/RestartPreventExitStatus"]


async def test_a_plan_is_shown_and_not_applied(program: Program, rig: Rig) -> None:
    await crowded(rig, program)
    refused = await program("balance", "-o", "json")
    assert refused.status == 4
    assert "vm move VM NODE --cold" in refused.error()["hint"]
    plan = (await program("balance", "--dry-run", "-o", "json")).json()
    assert plan["aim"] == "spread" and not plan["more"]
    assert plan["after"]["stdev_used_share"] < plan["before"]["stdev_used_share"]
    assert plan["moves"][0]["name"] == "large"
    assert all(move["gain"] >= 0.05 and move["before"] == "n1" for move in plan["moves"])
    bounded = (await program("balance", "--dry-run", "--max-moves", "1", "-o", "json")).json()
    assert bounded["moves"] == plan["moves"][:1] and bounded["more"]
    told = await program("balance", "--dry-run")
    assert told.out.startswith(f"{len(plan['moves'])} moves: the used shares of 3 nodes would differ by ")
    assert (await program("vm", "place", "large", "--node", "n1")).status == 0
    pinned = await program("balance", "--dry-run")
    assert "cannot be moved: 1 pinned" in pinned.out
    for line, status in (
        ("balance --dry-run --max-moves 0", 2),
        ("balance --dry-run --min-gain 0", 2),
        ("balance --dry-run --min-gain x", 2),
        ("scheduler run --ttl 1", 2),
        ("scheduler run --name A_B", 2),
        ("scheduler", 2),
    ):
        assert (await program(*line.split())).status == status, line
