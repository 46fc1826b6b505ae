"""The program's verbs about places against a real etcd: options, formats, exit statuses."""

from __future__ import annotations

import asyncio
import json

import pytest
import yaml
from cli_program import DEADLINE_S, Program, finish
from commands_rig import Rig

from metastack.core.model import PinMove, VmId

pytestmark = pytest.mark.etcd


def vm(name: str) -> VmId:
    return VmId("default", name)


async def three(rig: Rig) -> dict[str, int]:
    await rig.image()
    return {name: await rig.node(name) for name in ("n1", "n2", "n3")}


async def until_written(rig: Rig, name: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        async for _ in rig.store.watch(rig.keys.vm_spec(vm(name)), 0):
            if await rig.store.get(rig.keys.vm_spec(vm(name))) is not None:
                return


async def test_demands_from_the_command_line_and_back(program: Program, rig: Rig) -> None:
    sessions = await three(rig)
    assert (await program("node", "label", "n1", "zone=a", "generation=4")).status == 0
    assert (await program("node", "taint", "n2", "dedicated=db")).status == 0
    options = [
        "--node-selector zone=a",
        "--require-label generation>3",
        "--toleration dedicated=db",
        "--affinity app=db:preferred=2.5",
        "--anti-affinity app=web@zone",
        "--spread app=web@zone:2",
        "--priority 10",
        "--ready-port 80",
    ]
    words = [word for option in options for word in option.split()]
    made = await program(
        *("vm", "create", "web1", "--image", "tiny", "--label", "app=web", "--network", "br0", "--no-wait"),
        *("-o", "json"),
        *words,
    )
    assert made.json()["demands"] == options
    asked = (await program("vm", "explain", "web1", "-o", "json")).json()
    assert (asked["demands"], asked["chosen"], asked["line"]) == (options, "n1", 1)
    assert asked["placement"]["expressions"] == [{"key": "generation", "operator": "Gt", "values": ["3"]}]
    by_node = {said["node"]: said for said in asked["nodes"]}
    assert by_node["n1"]["fits"] and by_node["n1"]["rank"] == 1
    assert "needs label zone=a, the node has no label zone" in by_node["n2"]["reasons"]
    await rig.claim("n1", sessions["n1"], vm("web1"))
    told = await program("vm", "explain", "web1")
    assert told.out.startswith("default/web1: is on n1; no node ranks higher\n")
    assert "runs it" in told.out and "does not fit" in told.out and "--spread app=web@zone:2" in told.out
    placed = await program("vm", "place", "web1", "--node-selector", "zone=b", "--spread", "")
    assert placed.status == 0
    assert "it stays on n1" in placed.err
    shown = (await program("vm", "show", "web1", "-o", "json")).json()
    assert "--node-selector zone=b" in shown["demands"] and "--spread app=web@zone:2" not in shown["demands"]
    wrong = await program("vm", "place", "web1", "--spread", "app=web", "-o", "json")
    assert wrong.status == 2
    assert wrong.error()["object"] == "--spread"


async def test_many_at_once_are_listed_and_waited_for(program: Program, rig: Rig) -> None:
    sessions = await three(rig)
    many = ("vm", "create", "--count", "3", "--name-template", "w-{n:02}", "--image", "tiny", "-o", "json")
    dry = await program(*many, "--dry-run")
    said = dry.json()
    assert dry.err == ""
    table = await program(*many[:-2], "--dry-run")
    assert "the UUIDs that the VMs get decide between equal nodes" in table.err
    assert [(view["name"], view["chosen"] is not None) for view in said] == [
        ("w-01", True),
        ("w-02", True),
        ("w-03", True),
    ]
    assert await rig.store.get(rig.keys.vm_spec(vm("w-01"))) is None
    process = await program.start(*many)
    await until_written(rig, "w-03")
    for n, name in enumerate(("w-01", "w-02", "w-03"), 1):
        await rig.claim(f"n{n}", sessions[f"n{n}"], vm(name))
    listed = (await finish(process)).json()
    assert [(view["name"], view["phase"]) for view in listed] == [
        ("w-01", "running"),
        ("w-02", "running"),
        ("w-03", "running"),
    ]
    again = await program(*many)
    assert (again.status, again.out) == (4, "")
    assert "exists already, like 2 more" in again.error()["message"]
    for line, status in (
        ("vm create a --count 2 --image tiny", 2),
        ("vm create a --count 2 --name-template b-{n} --image tiny", 2),
        ("vm create --count 2 --name-template b --image tiny", 2),
        ("vm create --image tiny", 2),
    ):
        assert (await program(*line.split())).status == status, line


async def test_a_late_one_of_many_is_said_after_the_list(program: Program, rig: Rig) -> None:
    await three(rig)
    answer = await program(
        *("vm", "create", "--count", "2", "--name-template", "w-{n}", "--image", "tiny", "--timeout", "0.3"),
        *("-o", "json"),
    )
    assert answer.status == 5
    assert '"w-1"' in answer.out and '"w-2"' in answer.out
    message = answer.error()["message"]
    assert message.endswith("(and 1 more VM)") and "not running within --timeout 0.3 s" in message


async def test_moving(program: Program, rig: Rig) -> None:
    sessions = await three(rig)
    assert (await program("vm", "create", "a", "--image", "tiny", "--no-wait")).status == 0
    await rig.claim("n1", sessions["n1"], vm("a"))
    refused = await program("vm", "move", "a", "n2", "-o", "json")
    assert refused.status == 4
    assert refused.error()["hint"].startswith("`metastack vm move default/a n2 --cold`")
    process = await program.start("vm", "move", "a", "n2", "--cold")
    async with asyncio.timeout(DEADLINE_S):
        async for _ in rig.store.watch(rig.keys.vm_spec(vm("a")), 0):
            if (await rig.spec(vm("a"))).placement.move is PinMove.COLD:
                break
    await rig.release(vm("a"))
    await rig.claim("n2", sessions["n2"], vm("a"))
    moved = await finish(process)
    assert moved.status == 0, moved
    assert "running" in moved.out and "n2" in moved.out
    assert (await program("vm", "unpin", "a", "-o", "json")).json()["pinned_to"] is None
    assert (await program("vm", "move", "a", "n9")).status == 3


async def test_what_if_has_an_exit_status(program: Program, rig: Rig) -> None:
    sessions = await three(rig)
    for name, node in (("a", "n1"), ("b", "n2"), ("c", "n3")):
        made = await program("vm", "create", name, "--image", "tiny", "--memory", "4GiB", "--no-wait")
        assert made.status == 0
        await rig.claim(node, sessions[node], vm(name))
    fine = await program("whatif")
    assert (fine.status, fine.out) == (0, "at present, everything fits\n")
    bad = await program("whatif", "--lose", "n1")
    assert bad.status == 1
    assert bad.out.startswith("without n1, 1 VM would not fit\n")
    assert "needs 4096 MiB of memory" in bad.out
    assert "would not fit" in bad.out
    made = await program("vm", "create", "huge", "--image", "tiny", "--memory", "40GiB", "--no-wait")
    assert made.status == 0
    now = await program("whatif")
    assert (now.status, "already pending" in now.out) == (0, True), now
    assert "already pending" in (await program("whatif", "--lose", "n1")).out
    two = await program("whatif", "--lose", "n1", "-o", "json")
    view = json.loads(two.out)
    assert (two.status, view["left_out"], view["pending_already"], view["fits"]) == (1, 1, 1, False)
    assert {move["name"]: move["pending_already"] for move in view["moves"]} == {"a": False, "huge": True}
    assert (await program("vm", "delete", "huge", "--yes", "--no-wait")).status == 0
    saved = (
        await program(
            *[
                "whatif",
                "--lose",
                "n1,n2",
                "--add",
                "2",
                "--cpus",
                "8",
                "--memory",
                "8GiB",
                "--label",
                "zone=z",
                "-o",
                "json",
            ]
        )
    ).json()
    assert saved["fits"] and {move["after"] for move in saved["moves"]} == {"new-1", "new-2"}
    assert (await program("whatif", "--lose-any", "1", "-o", "json")).status == 1
    for line, status in (
        ("whatif --lose n9", 3),
        ("whatif --add 2", 2),
        ("whatif --cpus 2", 2),
        ("whatif --lose n1 --lose-any 1", 2),
        ("whatif --lose-any 99", 2),
        ("whatif --add 1 --cpus 2 --memory x", 2),
    ):
        assert (await program(*line.split())).status == status, line
    assert (await program("config", "set", "spare_nodes=1")).status == 0
    full = await program("vm", "create", "d", "--image", "tiny", "--memory", "1GiB", "--no-wait", "-o", "json")
    assert full.status == 4
    assert "spare_nodes=1" in full.error()["message"]
    forced = await program(
        *[
            "vm",
            "create",
            "d",
            "--image",
            "tiny",
            "--memory",
            "1GiB",
            "--no-wait",
            "--ignore-spare",
            "-o",
            "json",
        ],
    )
    assert forced.json()["phase"] == "pending"


async def test_draining(program: Program, rig: Rig) -> None:
    sessions = await three(rig)
    assert (await program("vm", "create", "a", "--image", "tiny", "--no-wait")).status == 0
    await rig.claim("n1", sessions["n1"], vm("a"))
    assert (await program("node", "drain", "n1")).status == 2, "nobody can answer without a terminal"
    late = await program("node", "drain", "n1", "--yes", "--wait", "--timeout", "0.5", "-o", "json")
    assert late.status == 5
    assert "1 VM left; next default/a" in late.error()["message"]
    process = await program.start("node", "drain", "n1", "--yes", "--wait", "-o", "json")
    await rig.release(vm("a"))
    node = (await finish(process)).json()
    assert (node["state"], node["draining"], node["vms"]) == ("draining", True, 0)
    assert (await program("node", "undrain", "n1", "-o", "json")).json()["state"] == "ready"
    tainted = await program("node", "taint", "n1", "x=1", "y:PreferNoSchedule", "-o", "json")
    assert tainted.json()["taints"] == ["x=1:NoSchedule", "y:PreferNoSchedule"]
    assert (await program("node", "taint", "n1", "x:NoExecute")).status == 2


async def test_every_verb_about_places_speaks_json_and_yaml(program: Program, rig: Rig) -> None:
    """One object (or array) on stdout whatever the verb, the same in YAML, and a name for scripts."""
    sessions = await three(rig)
    assert (await program("vm", "create", "a", "--image", "tiny", "--no-wait")).status == 0
    await rig.claim("n1", sessions["n1"], vm("a"))
    create = "vm create b --image tiny --dry-run"
    for line, key, value, name in (
        ("vm explain a", "chosen", "n1", "a"),
        (create, "name", "b", ""),
        (f"{create} --node n2 --memory 64GiB", "chosen", None, "-"),
        ("whatif", "fits", True, "fits"),
        ("whatif --lose n1", "left_out", 0, "fits"),
        ("whatif --lose-any 1", "pending_already", 0, "fits"),
        ("vm place a --priority 3", "demands", ["--priority 3"], "a"),
        ("vm move a n1", "pinned_to", "n1", "a"),
        ("vm unpin a", "pinned_to", None, "a"),
        ("node taint n3 x=1", "taints", ["x=1:NoSchedule"], "n3"),
        ("node label n3 zone=z", "labels", {"zone": "z"}, "n3"),
        ("node drain n3 --yes --wait", "draining", True, "n3"),
        ("node undrain n3", "draining", False, "n3"),
        ("balance --dry-run", "aim", "spread", None),
        ("scheduler show", "since", None, None),
    ):
        words = line.split()
        said = (await program(*words, "-o", "json")).json()
        assert said[key] == value, (line, said)
        as_yaml = yaml.safe_load((await program(*words, "-o", "yaml")).out)
        assert as_yaml.keys() == said.keys() and as_yaml[key] == value, line
        named = await program(*words, "-o", "name")
        assert named.status == 0 and named.out.count("\n") <= 1, (line, named)
        if name:
            assert named.out == f"{name}\n", (line, named)


async def test_what_was_put_on_a_node_is_shown(program: Program, rig: Rig) -> None:
    await three(rig)
    assert "TAINTS" not in (await program("node", "list")).out, "nobody has one"
    tainted = await program("node", "taint", "n1", "dedicated=db", "old:PreferNoSchedule")
    head, row = tainted.out.splitlines()
    assert "TAINTS" in head and "dedicated=db:NoSchedule,old:PreferNoSchedule" in row, tainted
    head, row = (await program("node", "label", "n2", "zone=a")).out.splitlines()
    assert "LABELS" in head and "zone=a" in row
    listed = (await program("node", "list")).out.splitlines()
    assert "TAINTS" in listed[0] and "dedicated=db:NoSchedule,old:PreferNoSchedule" in listed[1], listed
    assert "dedicated=db:NoSchedule" in (await program("node", "show", "n1")).out
    head, row = (await program("node", "taint", "n1", "dedicated-", "old-")).out.splitlines()
    assert "TAINTS" in head and "NoSchedule" not in row, "none is left, and that is said"
