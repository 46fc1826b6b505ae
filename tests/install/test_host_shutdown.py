"""A host that systemd reboots or powers off: its VMs go elsewhere, or wait for it. Two nodes, real parts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import node
import pytest
from hosts import Host, Lab

from metastack.lab.dev import proc

pytestmark = [pytest.mark.install, pytest.mark.timeout(900)]
UNIT = "metastack-agent"

_ETCD = """\
cat >>/etc/default/etcd <<T
ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379
ETCD_ADVERTISE_CLIENT_URLS=http://$1:2379
T
systemctl restart etcd
"""
_KEY = """\
ceph auth get-or-create client.metastack-$1 mon 'profile rbd, allow command "osd blocklist"' \\
  osd 'profile rbd pool=vms' mgr 'profile rbd pool=vms'
"""
_SECOND = """\
mkdir -p /etc/metastack /var/log/journal
cat >/etc/metastack/agent.toml <<T
name = "$1"
endpoints = ["http://$3:2379"]
address = "$2"
storage_addresses = ["$2"]
[storage]
kind = "ceph"
pool = "vms"
monitors = ["$3:6789"]
user = "metastack-$1"
keyring = "/etc/metastack/ceph.keyring"
T
chmod 600 /etc/metastack/ceph.keyring
systemctl disable -q --now etcd libvirt-guests
systemctl enable -q --now metastack-agent
"""


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> tuple[Host, Host]:
    """The first has etcd and Ceph and is a node, too; the second is the one that goes down."""
    first, second = lab.up(["h1", "h2"], kind="full")
    first.run(f"set -- {first.address}\n{_ETCD}")
    node.whole(first)
    node.put_guest(first)
    first.run("metastack cluster upgrade-finish --yes --reason test")
    node.install(second)
    second.run(node._BRIDGE)
    second.run("mkdir -p /etc/metastack")
    key = first.run(f"set -- {second.name}\n{_KEY}")
    second.path("/etc/metastack/ceph.keyring").write_text(key)
    second.run(f"set -- {second.name} {second.address} {first.address}\n{_SECOND}")
    return first, second


@pytest.fixture
def cluster(hosts: tuple[Host, Host]) -> Iterator[tuple[Host, Host]]:
    """A VM `v1` that runs on the second host, and settings of a test's own."""
    first, second = hosts
    second.start()
    until(first, 'metastack node show h2 -o json | grep -q \'"state": *"ready"\'', 120)
    first.run(
        "metastack vm create v1 --image guest --cpus 1 --memory 128MiB --node h2 && metastack vm unpin v1"
    )
    until(first, "journalctl -q -n 0; metastack vm console v1 --follow --timeout 10 </dev/null | grep -q GUEST")
    yield hosts
    first.run("metastack vm delete v1 --yes --reason test")
    first.run("metastack config set on_host_shutdown=release stop_timeout_s=60 --reason test")


def view(host: Host, *words: str) -> Any:
    return json.loads(host.run(f"metastack {' '.join(words)} -o json"))


def until(host: Host, script: str, timeout_s: float = 90.0) -> None:
    """Wait until a script of the host succeeds."""
    state = f"metastack vm list; metastack node list; journalctl -u {UNIT} --no-pager -o cat -n 20"
    proc.wait_for(
        lambda: host.ssh(["bash", "-euc", script], check=False).returncode == 0,
        timeout_s,
        lambda: f"{script}\n{host.run(state)}",
        every_s=0.2,
    )


def runs_on(host: Host, name: str, timeout_s: float = 90.0) -> None:
    is_so = f'd["phase"] == "running" and d["node"] == "{name}"'
    script = f"import json,sys; d = json.load(sys.stdin); sys.exit(not ({is_so}))"
    until(host, f"metastack vm show v1 -o json | python3 -c '{script}'", timeout_s)


def said(host: Host, event: str) -> list[dict[str, Any]]:
    """Events of the boot before this one."""
    lines = host.run(f"journalctl -b -1 -u {UNIT} --no-pager -o cat").splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [one for one in found if one["event"] == event]


def fences(host: Host) -> list[Any]:
    return list(view(host, "fence list"))


def test_a_reboot_moves_the_vm_before_the_host_is_gone(cluster: tuple[Host, Host]) -> None:
    first, second = cluster
    began = time.monotonic()
    second.enter(["systemctl", "reboot"])
    runs_on(first, "h1")
    took_s = time.monotonic() - began
    second.wait_running(unlike="")
    until(first, 'metastack node show h2 -o json | grep -q \'"state": *"ready"\'', 120)
    assert [one["policy"] for one in said(second, "host_shutdown")] == ["release"]
    assert [one["why"] for one in said(second, "killed")] == ["stopped"]  # it stopped by itself
    assert [one["kept"] for one in said(second, "host_leaves")] == [0]
    assert fences(first) == []
    print(f"reboot to running elsewhere: {took_s:.1f} s")


def test_a_power_off_keeps_the_vm_for_the_return(cluster: tuple[Host, Host]) -> None:
    first, second = cluster
    first.run("metastack config set on_host_shutdown=return --reason test")
    second.poweroff()
    off = time.monotonic()
    while time.monotonic() - off < 12:  # twice the lease, and the grace
        assert fences(first) == []
        assert view(first, "vm show", "v1")["node"] == "h2"
    second.start()
    runs_on(first, "h2", 120)
    assert [one["kept"] for one in said(second, "host_leaves")] == [1]
    assert fences(first) == []


def test_a_guest_that_never_stops_holds_no_reboot_up(cluster: tuple[Host, Host]) -> None:
    first, second = cluster
    first.run("metastack config set stop_timeout_s=5 --reason test")
    second.run("pkill -STOP -f ^/usr/bin/qemu-system")
    before = second.boot_id()
    began = time.monotonic()
    second.enter(["systemctl", "reboot"])
    runs_on(first, "h1", 150)
    second.wait_running(unlike=before)
    print(f"reboot with a hung guest: {time.monotonic() - began:.1f} s")


def test_a_reboot_in_an_etcd_outage_stops_the_guest(cluster: tuple[Host, Host]) -> None:
    first, second = cluster
    first.run("systemctl stop etcd")
    before = second.boot_id()
    second.enter(["systemctl", "reboot"])
    second.wait_running(unlike=before)
    first.run("systemctl start etcd")
    until(first, 'metastack vm show v1 -o json | grep -q \'"phase": *"running"\'', 150)
    assert [one["kept"] for one in said(second, "host_leaves")] == [0]


def test_a_restart_of_the_agent_is_no_shutdown(cluster: tuple[Host, Host]) -> None:
    _, second = cluster
    before = second.run("pgrep -f ^/usr/bin/qemu-system")
    second.run(f"systemctl restart {UNIT}")
    assert second.run("pgrep -f ^/usr/bin/qemu-system") == before
    assert "host_shutdown" not in second.run(f"journalctl -b -u {UNIT} --no-pager -o cat")
