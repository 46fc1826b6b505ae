"""The agent's settings: where they come from, who wins, and what is reported of a wrong one; sd_notify."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from metastack.agent.settings import SettingsError, load
from metastack.agent.upkeep.systemd import Notifier

GOOD = """
name = "n1"
endpoints = ["http://127.0.0.1:2379"]
[storage]
kind = "file"
directory = "/srv/disks"
"""


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return path


def test_flags_beat_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, GOOD + 'pool = "of-the-file"\n')
    environ = {"METASTACK_AGENT_STORAGE_POOL": "of-the-environment", "METASTACK_AGENT_WORKERS": "7"}
    assert load(path, {}).storage.pool == "of-the-file"
    assert load(path, environ).storage.pool == "of-the-environment"
    found = load(path, environ, {"storage.pool": "of-a-flag", "endpoints": "http://a:1, http://b:2"})
    assert (found.storage.pool, found.workers) == ("of-a-flag", 7)
    assert found.endpoints == ("http://a:1", "http://b:2")


@pytest.mark.parametrize(
    ("text", "environ", "says"),
    [
        ("name = ", {}, "agent.toml"),
        (GOOD.replace('"n1"', '"N 1"'), {}, "name: 'N 1' is not a DNS label"),
        (GOOD.replace('["http://127.0.0.1:2379"]', "[]"), {}, "endpoints: name at least one"),
        (GOOD + "colour = 1\n", {}, "colour"),
        (GOOD, {"METASTACK_AGENT_COLOUR": "1"}, "METASTACK_AGENT_COLOUR: no setting"),
        (GOOD, {"METASTACK_AGENT_WORKERS": "many"}, "'many' is not a number"),
        (GOOD, {"METASTACK_AGENT_WORKERS": "0"}, "workers"),
        (GOOD, {"METASTACK_AGENT_HYPERVISOR": "xen"}, "hypervisor"),
        (GOOD, {"METASTACK_AGENT_ADDRESS": "here"}, "'here' is not an IP address"),
        (GOOD, {"METASTACK_AGENT_CONSOLE_LISTEN": "1.2.3.4:x"}, "console_listen"),
        (GOOD, {"METASTACK_AGENT_STORAGE_KIND": "tape"}, "storage.kind"),
        (GOOD, {"METASTACK_AGENT_STORAGE_KIND": "ceph"}, "storage_addresses"),
        (GOOD.replace("/srv/disks", ""), {}, "storage.directory"),
        (GOOD, {"METASTACK_AGENT_STORAGE_GUEST_SECRET": "guests"}, "storage.guest_secret: needs kind ceph"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, environ: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(_file(tmp_path, text), environ)
    assert says in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml: No such file"):
        load(tmp_path / "nowhere.toml", {})


def test_the_hosts_name_in_small_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _file(tmp_path, 'endpoints = ["10.0.0.1:2379"]\n[storage]\ndirectory = "/pool"\n')
    monkeypatch.setattr("socket.gethostname", lambda: "Node-A.Example.COM")
    assert load(file, {}).name == "node-a"
    monkeypatch.setattr("socket.gethostname", lambda: "my_host.lan")
    with pytest.raises(SettingsError, match=r"'my_host.lan', which gives no node's name .* set `name`"):
        load(file, {})
    assert load(file, {"METASTACK_AGENT_NAME": "n1"}).name == "n1"
    with pytest.raises(SettingsError, match="set it to 'node-a'"):
        load(file, {"METASTACK_AGENT_NAME": "Node-A"})


async def test_sd_notify_ready_and_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        notifier = Notifier()
        notifier.say("READY=1")
        assert manager.recv(100) == b"READY=1"
        async with asyncio.TaskGroup() as group:
            task = group.create_task(notifier.watchdog())
            for _ in range(3):
                assert await asyncio.to_thread(manager.recv, 100) == b"WATCHDOG=1"
            task.cancel()


def test_without_a_service_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    notifier = Notifier()
    notifier.say("READY=1")
    assert notifier.watchdog_s == 0
