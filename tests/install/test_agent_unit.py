"""The agent under a real systemd, with Debian's libvirt, etcd and Ceph: its unit keeps what it says."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import node
import pytest
from hosts import Host, Lab

from metastack.lab.dev import proc

pytestmark = [pytest.mark.install, pytest.mark.timeout(900)]
UNIT = "metastack-agent"
SUITE = os.environ.get("METASTACK_LAB_SUITE", "trixie")
"""Debian of the host: the same holds on bookworm."""


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    found = lab.up(["h1"], suite=SUITE, kind="full")[0]
    node.whole(found)
    return found


@pytest.fixture(scope="module")
def vm(host: Host) -> str:
    node.put_guest(host)
    host.run("metastack vm create v1 --image guest --cpus 1 --memory 128MiB")
    return "v1"


@pytest.fixture
def unit(host: Host) -> Iterator[Host]:
    """What a test does to the unit is undone."""
    yield host
    host.run(f"rm -rf /run/systemd/system/{UNIT}.service.d; sed -i '/^nonsense/d' /etc/metastack/agent.toml")
    host.run(f"systemctl daemon-reload; systemctl reset-failed {UNIT}; systemctl restart {UNIT}")


def shown(host: Host, *names: str) -> dict[str, str]:
    """Properties of the unit."""
    text = host.run(f"systemctl show {UNIT} -p {','.join(names)}")
    return dict(line.split("=", 1) for line in text.splitlines())


def view(host: Host, *words: str) -> Any:
    return json.loads(host.run(f"metastack {' '.join(words)} -o json"))


def qemu(host: Host) -> list[str]:
    return host.run("pgrep -f ^/usr/bin/qemu-system || true").split()


def until(host: Host, script: str, timeout_s: float = 90.0) -> None:
    """Wait until a script of the host succeeds."""
    proc.wait_for(
        lambda: host.ssh(["bash", "-euc", script], check=False).returncode == 0,
        timeout_s,
        lambda: f"{script}\n{host.run(f'journalctl -u {UNIT} --no-pager -o cat -n 20')}",
        every_s=0.2,
    )


def test_systemd_starts_it_only_when_it_is_ready(host: Host) -> None:
    # `enable --now` of the installation returned, so READY=1 had come.
    assert shown(host, "Type", "ActiveState", "SubState", "NRestarts") == {
        "Type": "notify",
        "ActiveState": "active",
        "SubState": "running",
        "NRestarts": "0",
    }
    assert [found["state"] for found in view(host, "node list")] == ["ready"]


def test_its_process_has_three_capabilities_and_a_filter(host: Host) -> None:
    pid = shown(host, "MainPID")["MainPID"]
    status = dict(re.findall(r"^(\w+):\s+(.*)$", host.run(f"cat /proc/{pid}/status"), re.M))
    # CAP_DAC_OVERRIDE is bit 1, CAP_FOWNER 3, CAP_NET_RAW 13.
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 1 << 1 | 1 << 3 | 1 << 13
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_devices_are_closed_to_it(host: Host) -> None:
    group = f"/sys/fs/cgroup/system.slice/{UNIT}.service/cgroup.procs"
    inside = f"echo $$ >{group}; : </dev/null; : </dev/net/tun"
    refused = host.ssh(["bash", "-c", inside], check=False)
    assert refused.stderr.strip().endswith("/dev/net/tun: Operation not permitted")
    assert host.run(": </dev/net/tun") == ""


def test_the_sandbox_rates_as_documented(host: Host) -> None:
    said = host.run(f"systemd-analyze security {UNIT} --no-pager | tail -1")
    figure = float(re.findall(r"service: ([0-9.]+)", said)[0])
    page = (node.CHECKOUT / "docs/reference/hardening.md").read_text()
    assert f"| `{UNIT}.service` | {figure} |" in page
    assert figure <= 5.0


def test_qemu_puts_its_screen_where_the_unit_lets_it(host: Host, vm: str) -> None:
    # As on any Debian: QEMU is not root, and libvirt's settings are untouched.
    assert host.run(f"stat -c %U /proc/{qemu(host)[0]}") == "libvirt-qemu\n"
    uuid = view(host, "vm show", vm)["uuid"]
    ask = "import socket,sys; s=socket.socket(1); s.connect(sys.argv[1]); print(s.recv(12))"
    assert "RFB 003.008" in host.run(f"python3 -c '{ask}' /run/metastack/vnc/{uuid}.vnc")


def test_apparmor_would_let_qemu_have_its_screen(host: Host, vm: str) -> None:
    # No AppArmor in the lab: the profile that libvirt would load is read instead.
    uuid = view(host, "vm show", vm)["uuid"]
    domain = host.run("virsh list --name").split()[0]
    helper = f"/usr/lib/libvirt/virt-aa-helper -r -d --dryrun -u libvirt-{uuid}"
    profile = host.run(f"virsh dumpxml {domain} | {helper} 2>&1")
    assert f'"/run/metastack/vnc/{uuid}.vnc" rw,' in profile


def test_the_serial_console_speaks_through_the_agent(host: Host, vm: str) -> None:
    # The guest speaks while it boots: it is reset until the console, opened beside, has heard it.
    said = host.run(
        f"""
        metastack vm console {vm} --follow </dev/null >/root/said 2>&1 &
        for attempt in 1 2 3; do
            virsh -q reset "$(virsh list --name | head -1)"
            timeout 20 sh -c 'until grep -q GUEST /root/said; do sleep 0.2; done' && break
        done
        kill $!; cat /root/said"""
    )
    assert "GUEST booting" in said


def test_a_guest_outlives_a_restart_of_the_agent(host: Host, vm: str) -> None:
    before = qemu(host)
    host.run(f"systemctl restart {UNIT}")
    until(host, f'metastack vm show {vm} -o json | grep -q \'"phase": *"running"\'')
    assert qemu(host) == before != []
    uuid = view(host, "vm show", vm)["uuid"]
    host.run(f"test -S /run/metastack/vnc/{uuid}.vnc")


def test_the_watchdog_ends_an_agent_that_hangs(unit: Host, vm: str) -> None:
    guests = qemu(unit)
    unit.run(f"mkdir -p /run/systemd/system/{UNIT}.service.d")
    unit.run(f"printf '[Service]\\nWatchdogSec=6\\n' >/run/systemd/system/{UNIT}.service.d/t.conf")
    unit.run(f"systemctl daemon-reload; systemctl restart {UNIT}")
    pid = shown(unit, "MainPID")["MainPID"]
    began = time.monotonic()
    unit.run(f"kill -STOP {pid}")
    until(unit, f"systemctl show {UNIT} -p NRestarts --value | grep -qx 1 && systemctl is-active -q {UNIT}")
    assert time.monotonic() - began > 3
    assert shown(unit, "MainPID")["MainPID"] != pid
    assert "watchdog" in unit.run(f"journalctl -u {UNIT} --no-pager -o cat | grep -i watchdog").lower()
    assert qemu(unit) == guests != []


def test_a_wrong_setting_stays_ended(unit: Host) -> None:
    unit.run("sed -i '1i nonsense = 1' /etc/metastack/agent.toml")
    assert unit.ssh(["systemctl", "restart", UNIT], check=False).returncode != 0
    said = shown(unit, "ActiveState", "ExecMainStatus", "NRestarts")
    assert said == {"ActiveState": "failed", "ExecMainStatus": "2", "NRestarts": "0"}
    assert "nonsense" in unit.run(f"journalctl -u {UNIT} --no-pager -o cat -n 20")


def test_a_killed_agent_is_back_with_its_guests(host: Host, vm: str) -> None:
    guests = qemu(host)
    pid = shown(host, "MainPID")["MainPID"]
    host.run(f"kill -KILL {pid}")
    until(host, f"systemctl is-active -q {UNIT} && ! systemctl show {UNIT} -p MainPID --value | grep -qx {pid}")
    assert qemu(host) == guests != []


def test_after_a_reboot_node_and_vm_are_back(host: Host, vm: str) -> None:
    host.reboot()
    until(
        host,
        f'metastack vm show {vm} -o json | grep -q \'"phase": *"running"\' && pgrep -f ^/usr/bin/qemu',
        180,
    )
    assert [found["state"] for found in view(host, "node list")] == ["ready"]
