"""The program against a real etcd: verbs, formats, exit statuses, watches."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from cli_program import DEADLINE_S, Program, finish
from commands_rig import HELLO, Rig, request

from metastack.commands.vm.change import NewVm, create_vm
from metastack.core.model import ClusterConfig, Phase, VmId
from metastack.core.transaction import Delete, Put
from metastack.lab.dev.etcd import EtcdCluster

pytestmark = pytest.mark.etcd
FORMATS = ("table", "wide", "json", "yaml", "name")


def context_file(program: Program) -> Path:
    return Path(program.env["METASTACK_CONFIG"])


def rewrite(path: Path, old: str, new: str, to: Path | None = None) -> Path:
    """A file with one text replaced (the empty one: all of it), in place or elsewhere."""
    text = path.read_text()
    target = to or path
    target.write_text(text.replace(old, new) if old else new)
    return target


async def one_vm(rig: Rig) -> int:
    """A running VM hello; the session of its node n1."""
    await rig.image()
    session = await rig.node("n1")
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    await rig.claim("n1", session)
    return session


async def test_lists_and_shows_in_every_format(program: Program, rig: Rig) -> None:
    await one_vm(rig)
    for words in (("vm", "list"), ("node", "show", "n1"), ("status",)):
        said = {}
        for fmt in FORMATS:
            answer = await program(*words, "-o", fmt)
            assert answer.status == 0, answer
            assert answer.err == "", answer
            assert answer.out.strip(), (words, fmt)
            assert "\x1b" not in answer.out
            said[fmt] = answer.out
        data = json.loads(said["json"])
        assert isinstance(data, list) == (words[-1] == "list"), words
        assert yaml.safe_load(said["yaml"]) == data
    for line, lines in (
        ("image list", True),
        ("image show tiny", False),
        ("config show", True),
        ("context list", True),
        ("project list", True),
        ("version", False),
    ):
        assert isinstance((await program(*line.split(), "-o", "json")).json(), list) == lines, line
    vm = (await program("vm", "show", "hello", "-o", "json")).json()
    assert (vm["name"], vm["phase"], vm["node"], vm["ips"]) == ("hello", "running", "n1", ["10.0.0.9"])
    assert (await program("vm", "list", "-o", "name")).out == "hello\n"
    assert (await program("vm", "list", "--node", "n2", "-o", "json")).json() == []
    assert (await program("-o", "json", "vm", "list")).json()[0]["name"] == "hello"
    table = (await program("vm", "list")).out.splitlines()
    assert table[0].split()[:4] == ["NAME", "PROJECT", "PHASE", "NODE"]
    assert table[1].split()[:4] == ["hello", "default", "running", "n1"]


async def test_create_waits_until_it_runs(program: Program, rig: Rig) -> None:
    await rig.image()
    session = await rig.node("n1")
    process = await program.start(
        "vm", "create", "hello", "--image", "tiny", "--label", "a=b", "--memory", "64MiB", "--reason", "why"
    )
    await until_written(rig)
    await rig.claim("n1", session, phase=Phase.STARTING)
    await rig.status("n1", session, Phase.RUNNING)
    answer = await finish(process)
    assert answer.status == 0, answer
    assert "hello" in answer.out
    assert "running" in answer.out
    assert "default/hello: created" in answer.err, "progress goes to stderr"
    spec = await rig.spec()
    assert (spec.memory_mib, spec.labels, spec.reason) == (64, {"a": "b"}, "why")
    assert "@" in spec.by
    again = await program("vm", "create", "hello", "--image", "tiny", "-o", "json")
    assert again.status == 4
    assert again.out == ""
    assert again.error()["code"] == "conflict"


async def until_written(rig: Rig, vm: VmId = HELLO) -> None:
    async with asyncio.timeout(DEADLINE_S):
        async for _ in rig.store.watch(rig.keys.vm_spec(vm), 0):
            if await rig.store.get(rig.keys.vm_spec(vm)) is not None:
                return


async def test_power_verbs_and_delete(program: Program, rig: Rig) -> None:
    session = await one_vm(rig)
    stopped = await program("vm", "stop", "hello", "--no-wait", "-o", "json")
    assert stopped.json()["power"] == "off"
    assert stopped.err == ""
    late = await program("vm", "stop", "hello", "--timeout", "0.3", "-o", "json")
    assert late.status == 5
    assert late.error()["code"] == "timeout"
    await rig.release()
    assert (await program("vm", "wait", "hello", "--for", "stopped", "-o", "json")).json()["phase"] == "stopped"
    started = (await program("vm", "start", "hello", "--no-wait", "-o", "json")).json()
    assert (started["phase"], started["run"]) == ("pending", 2)
    await rig.claim("n1", session)
    assert (await program("vm", "restart", "default/hello", "--force", "--no-wait")).status == 0
    assert (await program("vm", "pause", "hello", "--no-wait")).status == 0
    assert (await rig.spec()).paused_epoch > 0
    assert (await program("vm", "resume", "hello", "--no-wait")).status == 0
    assert (await program("vm", "label", "hello", "x=1")).status == 0
    spec = await rig.spec()
    assert spec.labels == {"x": "1"}
    asked = await program("vm", "delete", "hello")
    assert asked.status == 2, "nobody can answer without a terminal"
    assert "--yes" in asked.err
    assert await rig.spec() == spec
    process = await program.start("vm", "delete", "hello", "--yes", "-o", "json")
    async with asyncio.timeout(DEADLINE_S):
        async for _ in rig.store.watch(rig.keys.vm_spec(HELLO), 0):
            if await rig.store.get(rig.keys.vm_spec(HELLO)) is None:
                break
    await rig.release(volume_uuid=spec.volume_uuid)
    deleted = (await finish(process)).json()
    assert (deleted["uuid"], deleted["deleted"], deleted["phase"]) == (spec.uuid, True, None)
    assert (await program("vm", "wait", "hello", "--for", "deleted")).status == 0
    assert (await program("vm", "delete", "hello", "--yes")).status == 3


async def test_several_at_once(program: Program, rig: Rig) -> None:
    session = await one_vm(rig)
    other = VmId("p", "two")
    await rig.write(Put(rig.keys.project("p"), b'{"v":1,"name":"p"}'))
    await create_vm(rig.cluster, request(), NewVm(vm=other, image="tiny"))
    await rig.claim("n1", session, other)

    stopped = await program("vm", "stop", "hello", "p/two", "hello", "--no-wait", "-o", "json")
    assert [(vm["name"], vm["project"], vm["power"]) for vm in stopped.json()] == [
        ("hello", "default", "off"),
        ("two", "p", "off"),
    ]
    started = await program("vm", "start", "p/two", "none", "hello", "default/nix", "--no-wait", "-o", "json")
    assert started.status == 3, "one that is not there keeps nobody from being started"
    assert [vm["name"] for vm in json.loads(started.out)] == ["two", "hello"]
    error = started.error()
    assert (error["code"], error["object"]) == ("not_found", "vm default/none")
    assert "vm default/nix: does not exist" in error["message"], "each is reported"
    told = await program("vm", "start", "none", "hello", "nix", "--no-wait")
    assert told.status == 3
    assert "error: vm default/none: does not exist\n" in told.err
    assert "error: vm default/nix: does not exist\n" in told.err
    assert "default/hello: unchanged\n" in told.err
    told = await program("vm", "stop", "hello", "p/two", "--timeout", "1.2")
    assert re.fullmatch(
        r"(.*is \w+, not stopped within --timeout 1.2 s: .*\n  .*\n){2}", told.err[told.err.index("error:") :]
    ), told.err
    late = await program("vm", "stop", "hello", "p/two", "--timeout", "0.3", "-o", "json")
    assert (late.status, late.error()["code"], len(json.loads(late.out))) == (5, "timeout", 2)
    for words in (("start",), ("restart", "--force"), ("pause",), ("resume",)):
        answer = await program("vm", words[0], "hello", "p/two", *words[1:], "--no-wait", "-o", "json")
        assert len(answer.json()) == 2, words
    wrong = await program("vm", "stop", "hello", "No_Name", "--no-wait")
    assert (wrong.status, (await rig.spec()).power) == (2, "on"), "names are read before anything is written"


async def test_several_are_deleted(program: Program, rig: Rig) -> None:
    await one_vm(rig)
    two = VmId("default", "two")
    await create_vm(rig.cluster, request(), NewVm(vm=two, image="tiny"))
    status, shown = await program.on_terminal("vm", "delete", "hello", "two", typed=b"n\n")
    assert status == 1, shown
    assert "Delete 2 VMs and their disks (default/hello, default/two)? [y/N]" in shown
    spec = await rig.spec()
    process = await program.start("vm", "delete", "hello", "two", "none", "--yes")
    async with asyncio.timeout(DEADLINE_S):
        async for _ in rig.store.watch(rig.keys.vm_spec(two), 0):
            if await rig.store.get(rig.keys.vm_spec(two)) is None:
                break
    await rig.release(volume_uuid=spec.volume_uuid)
    answer = await finish(process)
    assert answer.status == 3, answer
    assert answer.out == "vm default/hello deleted\nvm default/two deleted\n"
    assert "error: vm default/none: does not exist" in answer.err
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    await create_vm(rig.cluster, request(), NewVm(vm=two, image="tiny"))
    gone = (await program("vm", "delete", "hello", "two", "--yes", "-o", "json")).json()
    assert [(vm["name"], vm["deleted"]) for vm in gone] == [("hello", True), ("two", True)]


async def test_destroying_asks_on_a_terminal(program: Program, rig: Rig) -> None:
    await one_vm(rig)
    status, shown = await program.on_terminal("vm", "delete", "hello", "--no-wait", typed=b"n\n")
    assert status == 1, shown
    assert "Delete VM default/hello and its disk? [y/N]" in shown
    await rig.spec()
    status, shown = await program.on_terminal("vm", "delete", "hello", "--no-wait", typed=b"y\n")
    assert status == 0, shown
    assert await rig.store.get(rig.keys.vm_spec(HELLO)) is None


async def test_colour_on_a_terminal_only(program: Program, rig: Rig) -> None:
    await one_vm(rig)
    assert "\x1b[32m" in (await program.on_terminal("vm", "list"))[1]
    assert "\x1b" not in (await program.on_terminal("vm", "list", NO_COLOR="1"))[1]
    assert "\x1b" not in (await program.on_terminal("vm", "list", TERM="dumb"))[1]
    assert "\x1b" not in (await program("vm", "list")).out


async def test_what_a_guest_says_cannot_move_the_cursor(program: Program, rig: Rig) -> None:
    session = await one_vm(rig)
    await rig.status("n1", session, Phase.FAILED, message="\x1b[2Jgone\r\n")
    for words in (("vm", "list"), ("vm", "show", "hello"), ("status",)):
        out = (await program(*words)).out
        assert "\x1b" not in out
        assert "\\x1b[2Jgone" in out


async def test_exit_statuses(program: Program, rig: Rig) -> None:
    await one_vm(rig)
    await rig.write(Put(rig.keys.vm_spec(VmId("default", "bad")), b"{"))
    for status, code, words in (
        (1, "failed", ("vm", "start", "bad")),
        (2, "usage", ("vm", "create", "Bad_Name", "--image", "tiny")),
        (2, "usage", ("vm", "create", "x", "--image", "tiny", "--memory", "512")),
        (2, "usage", ("vm", "create", "x", "--image", "tiny", "--disk", "4G")),
        (2, "usage", ("vm", "create", "x", "--image", "tiny", "--cpus", "many")),
        (2, "usage", ("vm", "create", "x", "--image", "tiny", "--disk", "1MiB")),
        (2, "usage", ("vm", "create", "a" * 64, "--image", "tiny")),
        (2, "usage", ("vm", "create", "x")),
        (2, "usage", ("vm", "nonsense")),
        (2, "usage", ("nonsense",)),
        (2, "usage", ("vm", "list", "--nonsense")),
        (2, "usage", ("config", "set", "lease_ttl_s=1")),
        (2, "usage", ("config", "set", "nonsense=1")),
        (2, "usage", ("vm", "delete", "hello")),
        (2, "usage", ("vm", "wait", "hello", "--for", "nonsense")),
        (3, "not_found", ("vm", "show", "nobody")),
        (3, "not_found", ("node", "show", "n9")),
        (3, "not_found", ("image", "show", "nope")),
        (3, "not_found", ("vm", "create", "x", "--image", "nope")),
        (3, "not_found", ("vm", "create", "x", "--image", "tiny", "--project", "nope")),
        (3, "not_found", ("vm", "list", "--project", "nope")),
        (2, "usage", ("vm", "list", "--label", "tier")),
        (3, "not_found", ("vm", "list", "--context", "nope")),
        (3, "not_found", ("image", "import", "x", "/nonexistent")),
        (4, "conflict", ("vm", "create", "hello", "--image", "tiny")),
        (4, "conflict", ("image", "delete", "tiny", "--yes")),
        (5, "timeout", ("vm", "wait", "hello", "--for", "stopped", "--timeout", "0.2")),
        (7, "unreachable", ("vm", "list", "--endpoint", "http://127.0.0.1:1")),
    ):
        answer = await program(*words, "-o", "json")
        assert answer.status == status, (words, answer)
        assert answer.error()["code"] == code, (words, answer)
        assert answer.out == "", words
    plain = await program("vm", "show", "nobody")
    assert (plain.status, plain.out) == (3, "")
    assert plain.err.splitlines() == [
        "error: vm default/nobody: does not exist",
        "  `metastack vm list` shows the VMs",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
async def test_denied_to_other_users_than_root(program: Program, rig: Rig) -> None:
    """A cluster inside a network namespace: the error names the command that would do."""
    await one_vm(rig)
    folder = Path(tempfile.mkdtemp(prefix="ms-denied-", dir="/tmp"))
    try:
        old, new = "[contexts.lab.store]", '[contexts.lab]\nnetns = "x"\n[contexts.lab.store]'
        config = rewrite(context_file(program), old, new, folder / "config.toml")
        for path in (folder, config):
            os.chown(path, 65534, 65534)
        process = await program.start(
            "vm", "console", "hello", "-o", "json", user=65534, METASTACK_CONFIG=str(config)
        )
        answer = await finish(process)
    finally:
        shutil.rmtree(folder)
    assert answer.status == 6, answer
    assert answer.error()["code"] == "denied"
    assert "sudo" in answer.error()["hint"]


async def test_unreachable_within_five_seconds_naming_the_endpoints(program: Program) -> None:
    begun = time.monotonic()
    answer = await program(
        "vm", "list", "--endpoint", "http://127.0.0.1:1", "--endpoint", "http://127.0.0.1:2", "-o", "json"
    )
    took = time.monotonic() - begun
    assert answer.status == 7
    assert took < 6.5, took  # 5 s, and the start of a process on a noisy machine
    message = answer.error()["message"]
    for url in ("http://127.0.0.1:1", "http://127.0.0.1:2"):
        assert message.count(f"{url}: Connection refused") == 1
    assert answer.err.count("\n") == 1, "one error, no logs"
    assert "/metastack" not in message, "how it was asked is nobody's business"


async def test_an_endpoint_without_a_scheme(program: Program) -> None:
    answer = await program("vm", "list", "--endpoint", "127.0.0.1:1", "-o", "json")
    assert (answer.status, answer.error()["code"]) == (7, "unreachable")
    assert "127.0.0.1:1: Connection refused" in answer.error()["message"]


async def test_endpoints_that_are_none(program: Program) -> None:
    for words in (("--endpoint", "foo"), ("--endpoint", "http://h")):
        answer = await program("vm", "list", *words)
        assert answer.status == 2, answer
        assert "expected http://host:port" in answer.err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
async def test_a_socket_of_somebody_else(program: Program) -> None:
    folder = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp"))
    path = folder / "socket"
    path.touch(mode=0o600)
    os.chmod(folder, 0o711)
    try:
        process = await program.start("vm", "list", "--endpoint", f"unix:{path}", "-o", "json", user=65534)
        answer = await finish(process)
        os.chmod(folder, 0o700)
        hidden = await finish(await program.start("vm", "list", "--endpoint", f"unix:{path}", user=65534))
    finally:
        shutil.rmtree(folder)
    assert answer.status == hidden.status == 6, (answer, hidden)
    assert str(path) in answer.error()["message"]
    assert answer.error()["hint"].startswith("run with sudo")


async def test_interrupted_while_waiting_it_says_what_stays(program: Program, rig: Rig) -> None:
    await rig.image()
    process = await program.start("vm", "create", "hello", "--image", "tiny")
    await until_written(rig)
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        await process.stderr.readuntil(b"pending")
    process.send_signal(signal.SIGINT)
    answer = await finish(process)
    assert answer.status == 130
    assert "`metastack vm delete default/hello` removes it" in answer.err
    assert answer.out == ""


async def test_interrupted_with_machine_output_it_says_so_too(program: Program, rig: Rig) -> None:
    await rig.image()
    process = await program.start("vm", "create", "hello", "--image", "tiny", "-o", "json")
    await until_written(rig)
    process.send_signal(signal.SIGINT)
    answer = await finish(process)
    assert (answer.status, answer.out) == (130, "")
    assert answer.error()["code"] == "interrupted"
    assert answer.error()["object"] == "vm default/hello"
    # It was told to stop just when its VM was there: it may not know that yet.
    assert re.search("delete default/hello` removes it|may have been written", answer.error()["message"])


async def test_interrupted_many_and_a_drain_say_what_stays(program: Program, rig: Rig) -> None:
    await rig.image()
    many = ("--count", "2", "--name-template", "m-{n}")
    process = await program.start("vm", "create", *many, "--image", "tiny")
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        await process.stderr.readuntil(b"pending")
    process.send_signal(signal.SIGINT)
    answer = await finish(process)
    assert answer.status == 130
    assert "2 VMs stay; `metastack vm delete default/m-1 default/m-2` removes them" in answer.err
    session = await one_vm(rig)
    assert session
    process = await program.start("node", "drain", "n1", "--yes", "--wait")
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        await process.stderr.readuntil(b"left")
    process.send_signal(signal.SIGINT)
    answer = await finish(process)
    assert answer.status == 130
    assert "node n1: interrupted; the drain continues; `metastack node undrain n1` ends it" in answer.err


async def test_endpoints_from_the_environment(program: Program, rig: Rig, cli_etcd: EtcdCluster) -> None:
    await one_vm(rig)
    answer = await program(
        "vm",
        "list",
        "-o",
        "name",
        METASTACK_CONFIG="/nonexistent",
        METASTACK_ENDPOINTS=",".join(cli_etcd.endpoints),
        METASTACK_ROOT=rig.keys.root,
    )
    assert answer.out == "hello\n", answer
    nowhere = await program("vm", "list", METASTACK_CONFIG="/nonexistent")
    assert nowhere.status == 2
    assert "metastack dev up" in nowhere.err


async def test_contexts(program: Program) -> None:
    old, new = "[contexts.lab.storage]", '[contexts.other.store]\nendpoints = ["x"]\n[contexts.lab.storage]'
    path = rewrite(context_file(program), old, new)
    assert (await program("context", "use", "other", "-o", "name")).out == "other\n"
    listed = (await program("context", "list", "-o", "json")).json()
    assert [(item["name"], item["current"]) for item in listed] == [("lab", False), ("other", True)]
    assert (await program("context", "use", "nope")).status == 3
    assert (await program("vm", "list", METASTACK_CONTEXT="lab")).status == 0
    rewrite(path, "", "current = =\n")
    broken = await program("vm", "list")
    assert broken.status == 2
    assert f"{path} is not TOML" in broken.err
    assert "line 1" in broken.err


async def test_watch_prints_json_lines(program: Program, rig: Rig) -> None:
    session = await one_vm(rig)
    process = await program.start("vm", "list", "--watch", "-o", "json")
    assert process.stdout is not None

    async def line(phase: str | None) -> dict[str, object]:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            while text := await process.stdout.readline():
                found: dict[str, object] = json.loads(text)
                if found["phase"] == phase:
                    return found
        raise AssertionError("the watch ended")

    assert (await line("running"))["node"] == "n1"
    await rig.status("n1", session, Phase.PAUSED)
    await line("paused")
    spec = await rig.spec()
    await rig.write(Delete(rig.keys.vm_spec(HELLO)))
    assert (await line("stopping"))["deleted"] is True
    await rig.release(volume_uuid=spec.volume_uuid)
    last = await line(None)
    assert (last["name"], last["deleted"]) == ("hello", True)
    process.send_signal(signal.SIGINT)
    answer = await finish(process)
    assert answer.status == 130
    assert answer.err == ""


async def test_watch_survives_a_reader_that_goes_away(program: Program, rig: Rig) -> None:
    session = await one_vm(rig)
    process = await program.start("vm", "list", "--watch", "-o", "name")
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        assert await process.stdout.readline() == b"hello\n"
        process.stdout._transport.close()  # type: ignore[attr-defined]
        await rig.status("n1", session, Phase.PAUSED)
        assert process.stderr is not None
        assert await process.stderr.read() == b""
        assert await process.wait() == 141


async def test_a_broken_record_does_not_stop_the_list(program: Program, rig: Rig) -> None:
    await one_vm(rig)
    await rig.write(Put(rig.keys.vm_spec(VmId("default", "bad")), b'{"v":9}'))
    listed = {vm["name"]: vm for vm in (await program("vm", "list", "-o", "json")).json()}
    assert listed["bad"]["broken"]
    assert listed["bad"]["phase"] is None
    assert "newer" in listed["bad"]["message"]
    assert listed["hello"]["phase"] == "running"
    assert (await program("vm", "start", "bad")).status == 1


async def test_two_edits_at_once(program: Program, rig: Rig) -> None:
    """Ten processes at one spec: each label is there, each change has its event."""
    await one_vm(rig)
    answers = await asyncio.gather(*(program("vm", "label", "hello", f"k{n}=1") for n in range(6)))
    assert [answer.status for answer in answers] == [0] * 6
    assert sorted((await rig.spec()).labels) == [f"k{n}" for n in range(6)]
    assert sum(event.what == "vm.label" for event in await rig.events()) == 6


async def test_sixty_three_letters_fit(program: Program, rig: Rig) -> None:
    await rig.image()
    name = "a" * 63
    made = await program("vm", "create", name, "--image", "tiny", "--off", "-o", "json")
    assert (made.json()["name"], made.json()["phase"]) == (name, "stopped")


async def test_configuration(program: Program, rig: Rig) -> None:
    answer = await program("config", "set", "lease_ttl_s=3", "default_network=br0", "--reason", "r")
    assert answer.status == 0
    assert await rig.cluster.config() == ClusterConfig(lease_ttl_s=3, default_network="br0")
    shown = (await program("config", "show", "-o", "json")).json()
    assert {item["key"]: item["value"] for item in shown}["lease_ttl_s"] == 3
    assert [event.reason for event in await rig.events()] == ["r"]
    wide = (await program("config", "show", "-o", "wide")).out
    assert "a whole number of seconds from 2 to 60" in wide
    assert "fenced only by hand" in wide, "what brake_percent=0 means"
    refused = await program("config", "set", "lease_ttl_s=0.001")
    assert refused.status == 2
    assert "lease_ttl_s: a whole number of seconds from 2 to 60, not '0.001'" in refused.err
    assert (await program("config", "unset", "nothing")).status == 2
    unset = await program("config", "unset", "lease_ttl_s", "-o", "json")
    assert [(item["value"], item["changed"]) for item in unset.json()] == [(5, False)]
    assert await rig.cluster.config() == ClusterConfig(default_network="br0")


async def test_hints_name_the_option_and_what_exists(program: Program, rig: Rig) -> None:
    await rig.image()
    await rig.node("n1")
    bare = await program("vm", "create", "x", "--image", "tiny", "--memory", "128")
    assert bare.status == 2
    assert "--memory: '128' has no unit: write 128MiB" in bare.err
    assert "--disk: " in (await program("vm", "create", "x", "--image", "tiny", "--disk", "4")).err
    words = ("vm", "create", "x", "--image", "tiny", "--network", "br9", "--timeout", "2")
    assert "use --network with a bridge that exists: br0" in (await program(*words)).err


async def test_nodes(program: Program, rig: Rig) -> None:
    await one_vm(rig)
    assert (await program("node", "cordon", "n1", "-o", "json")).json()["state"] == "cordoned"
    assert "unchanged" in (await program("node", "cordon", "n1")).err
    assert (await program("node", "label", "n1", "rack=a", "-o", "json")).json()["labels"] == {"rack": "a"}
    assert (await program("node", "uncordon", "n1", "-o", "json")).json()["state"] == "ready"
    await rig.lose("n1")
    status = await program("status")
    assert status.out.startswith("not ok: 1 of 1 nodes are lost: the brake holds"), status
    assert status.status == 1
    assert (await program("status", "-o", "json")).status == 1
    quiet = await program("status", "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (1, "", "")
    lost = (await program("node", "list", "-o", "json")).json()
    assert (lost[0]["state"], lost[0]["session"], lost[0]["capacity"]) == ("lost", None, None)
    shown = dict(line.split(maxsplit=1) for line in (await program("node", "show", "n1")).out.splitlines())
    assert (shown["capacity"], shown["hypervisor"], shown["uuid"]) == ("unknown", "unknown", "uuid-n1")
    assert shown["by"].strip(), "who uncordoned it"
    single = (await program("status")).out
    assert single.count("the brake holds") == 1, "no problem is told twice"


async def test_pending_is_explained(program: Program, rig: Rig) -> None:
    await rig.image()
    await rig.node("n1", memory_mib=1500)
    late = await program("vm", "create", "hello", "--image", "tiny", "--memory", "8GiB", "--timeout", "2")
    assert late.status == 5
    assert "n1: needs 8192 MiB of memory, 476 of 476 are free" in late.err
    shown = (await program("vm", "show", "hello", "-o", "json")).json()
    assert shown["phase"] == "pending", "accepted, and stays so"
    assert "n1: needs" in shown["message"]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("metastack vm show ", ["hello", "web/site"]),
        ("metastack vm show he", ["hello"]),
        ("metastack vm show --project web s", ["site"]),
        ("metastack node show ", ["n1"]),
        ("metastack image delete ", ["tiny"]),
        ("metastack vm create x --image t", ["tiny"]),
        ("metastack vm create x --node ", ["n1"]),
        ("metastack vm list -o ", ["table", "wide", "json", "yaml", "name"]),
        ("metastack --context ", ["lab"]),
        ("metastack config set lease", ["lease_ttl_s="]),
        ("metastack vm pa", ["pause"]),
        ("metastack im", ["image"]),
        ("metastack vm show --endpoint http://127.0.0.1:1 ", []),
    ],
)
async def test_completion_with_live_names(program: Program, rig: Rig, line: str, wanted: list[str]) -> None:
    await one_vm(rig)
    await rig.put(rig.keys.vm_spec(VmId("web", "site")), await rig.spec())
    words = line.split(" ")
    begun = time.monotonic()
    answer = await program(_METASTACK_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert answer.out.split() == wanted, answer
    assert answer.err == ""
    assert time.monotonic() - begun < 10
