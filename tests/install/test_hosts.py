"""The lab of hosts keeps what its tests rely on: boots, ends, and nothing left behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hosts import Host, Lab

from metastack.lab.dev import proc

pytestmark = [pytest.mark.install, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    return lab.up(["h1", "h2"])[0]


def test_hosts_reach_each_other_and_nothing_else(host: Host) -> None:
    assert host.run("exec 3<>/dev/tcp/10.91.0.12/22; head -c 4 <&3") == "SSH-"
    outside = host.ssh(["bash", "-c", "exec 3<>/dev/tcp/192.0.2.1/80"], check=False)
    assert outside.returncode != 0


def test_apt_installs_from_the_mirror_on_the_bridge(host: Host) -> None:
    host.run("apt-get -q update && apt-get -q -y install --no-install-recommends jq", timeout_s=200)
    assert host.run("jq --version").startswith("jq-")


def test_a_reboot_keeps_the_disk_and_loses_wires(host: Host) -> None:
    before = host.boot_id()
    host.run("echo kept >/root/kept; ip link add br9 type bridge")
    host.reboot()
    assert host.boot_id() != before
    assert host.run("cat /root/kept") == "kept\n"
    assert "br9" not in host.run("ls /sys/class/net")


def test_a_power_cut_leaves_no_process_of_the_host(host: Host) -> None:
    host.run("setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo started")
    inside = proc.descendants(host.leader)
    assert any(proc.command(found.pid) == "sleep" for found in inside)
    host.power_cut()
    assert not host.running
    assert not [found for found in inside if proc.alive(found)]
    host.start()


def test_a_wiped_host_has_forgotten_everything(host: Host) -> None:
    host.run("echo secret >/root/secret")
    host.wipe()
    host.start()
    assert host.ssh(["test", "-e", "/root/secret"], check=False).returncode == 1


def test_a_lab_that_is_down_leaves_nothing(lab: Lab, host: Host) -> None:
    processes = [found for each in lab.hosts() for found in proc.descendants(each.leader)]
    lab.down()
    assert not [found for found in processes if proc.alive(found)]
    assert not lab.folder.exists()
    assert lab.netns not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert str(lab.folder) not in Path("/proc/self/mountinfo").read_text()
