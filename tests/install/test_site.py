"""Bare hosts to a running cluster by the playbooks of deploy/ansible, and each day-2 playbook after it.

Four hosts of Debian 13 with SSH: h1 to h3 are etcd and compute, m1 has the CA, the commands, the logs and a
small Ceph; h4 comes later. The tests tell one story, in this order.
METASTACK_SITE=NAME uses and keeps a lab of that name (to work on the roles).
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import node
import pytest
from control import Control, renamed
from hosts import Host, Lab

from metastack.lab.dev import proc

pytestmark = [pytest.mark.install, pytest.mark.timeout(1800)]
ETCD = ("h1", "h2", "h3")
NEW = "99.0.0"
"""Version of the bundle that the upgrade brings."""


@pytest.fixture(scope="module")
def lab(lab: Lab) -> Lab:
    return Lab(os.environ["METASTACK_SITE"]) if "METASTACK_SITE" in os.environ else lab


@pytest.fixture(scope="module")
def m1(lab: Lab) -> Host:
    found = lab.up([*ETCD, "m1"], kind="full")[-1]
    admin = found.path("/etc/ceph/ceph.client.admin.keyring")
    if not admin.exists():
        node.mini_ceph(found)
    (lab.folder / "admin.keyring").write_bytes(admin.read_bytes())
    return found


@pytest.fixture(scope="module")
def control(lab: Lab, m1: Host) -> Control:
    if not list(lab.folder.glob("metastack-*.tar")):
        made = node.bundle()
        (lab.folder / made.name).write_bytes(made.read_bytes())
    return Control(lab, inventory(lab, ETCD))


def bundle_of(lab: Lab) -> Path:
    return min(lab.folder.glob("metastack-*.tar"))


def inventory(lab: Lab, nodes: tuple[str, ...]) -> dict[str, Any]:
    """Hosts of a lab: no KVM, no control groups to write, and a clock that is everybody's."""
    addresses = {host.name: host.address for host in lab.hosts()}
    members = {name: {} for name in nodes}
    return {
        "all": {
            "vars": {
                "ansible_user": "root",
                "ansible_ssh_common_args": f"-F {lab.folder}/ssh_config",
                "cluster_bundle": str(bundle_of(lab)),
                "cluster_settings": {"default_network": "br0"},
                "precheck_accept_no_kvm": True,
                "time_options": "-F 1 -x",
                "etcd_nofile": 16384,
                "compute_qemu_conf": {"cgroup_controllers": [], "security_driver": "none"},
                "ceph_monitors": [f"{addresses['m1']}:6789"],
                "ceph_admin_keyring": str(lab.folder / "admin.keyring"),
                "ceph_pool_pgs": 8,
                "network_bridge": "br0",
                "network_uplink": "eth1",
            },
            "hosts": {name: {"ansible_host": addresses[name]} for name in (*nodes, "m1")},
            "children": {
                "etcd": {"hosts": {name: {} for name in ETCD}},
                "compute": {"hosts": members},
                "management": {"hosts": {"m1": {}}},
                "logserver": {"hosts": {"m1": {}}},
            },
        }
    }


def view(m1: Host, *words: str) -> Any:
    return json.loads(m1.run(f"metastack {' '.join(words)} -o json"))


def ready(m1: Host) -> set[str]:
    return {found["name"] for found in view(m1, "node list") if found["state"] == "ready"}


def vm(m1: Host) -> dict[str, Any]:
    return dict(view(m1, "vm show v1"))


def until(m1: Host, script: str, timeout_s: float = 120.0) -> None:
    """Wait until a script of the management host succeeds."""
    proc.wait_for(
        lambda: m1.ssh(["bash", "-euc", script], check=False).returncode == 0,
        timeout_s,
        lambda: f"{script}\n{m1.run('metastack status; metastack events | tail -n 20')}",
        every_s=0.5,
    )


def etcd_pids(lab: Lab) -> dict[str, str]:
    return {name: lab.host(name).run("systemctl show etcd -P MainPID").strip() for name in ETCD}


def agent_pids(lab: Lab) -> dict[str, str]:
    return {name: lab.host(name).run("systemctl show metastack-agent -P MainPID").strip() for name in ETCD}


def guests(lab: Lab) -> list[str]:
    return [
        line for name in ETCD for line in lab.host(name).run("pgrep -f ^/usr/bin/qemu-system || true").split()
    ]


# --- before anything is written


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"cluster_bundle": "/none.tar"}, "Run deploy/wheelhouse"),
        ({"precheck_accept_no_kvm": False}, "has no /dev/kvm"),
        ({"cluster_address": "10.99.0.1"}, "does not have the address 10.99.0.1"),
        ({"precheck_disk_mib": 10**9}, "Free some"),
        ({"precheck_debian": ["12"]}, "Install Debian 12 with systemd"),
    ],
    ids=["bundle", "kvm", "address", "disk", "platform"],
)
def test_a_bad_host_is_refused_first(control: Control, variables: dict[str, Any], message: str) -> None:
    played = control.play("site.yml", check=False, **variables)
    assert played.status != 0
    assert message in re.sub(r"\s+", " ", played.text)
    assert sum(played.changed.values()) == 0


# --- from bare hosts to a VM


def test_site_makes_a_cluster(control: Control, m1: Host) -> None:
    begun = time.monotonic()
    control.play("site.yml")
    print(f"site: {time.monotonic() - begun:.0f} s", flush=True)
    assert ready(m1) == set(ETCD)


def test_a_vm_runs_on_it(m1: Host) -> None:
    node.put_guest(m1)
    m1.run("metastack vm create v1 --image guest --cpus 1 --memory 128MiB")
    assert vm(m1)["phase"] == "running"


def test_the_second_run_changes_nothing(control: Control, lab: Lab) -> None:
    before = etcd_pids(lab), agent_pids(lab)
    again = control.play("site.yml")
    changed = re.findall(r"^TASK \[(.*)\] \**\n(?:(?!TASK)(?!changed).*\n)*changed", again.text, re.M)
    assert changed == []
    assert again.changed == dict.fromkeys((*ETCD, "m1"), 0)
    assert (etcd_pids(lab), agent_pids(lab)) == before


def test_check_mode_changes_nothing(control: Control) -> None:
    assert sum(control.play("site.yml", "--check").changed.values()) == 0


def test_a_node_is_no_peer_of_etcd(lab: Lab) -> None:
    asked = r"""printf 'GET /members HTTP/1.0\r\n\r\n' | openssl s_client -quiet -connect {0}:2380 \
        -CAfile /etc/metastack/pki/ca.crt -cert {1}.crt -key {1}.key 2>&1 || true"""
    h1 = lab.host("h1")
    member = h1.run(asked.format(h1.address, "/etc/etcd/pki/etcd.h1"))
    stranger = h1.run(asked.format(h1.address, "/etc/metastack/pki/node.h1"))
    assert "200 OK" in member
    assert "200 OK" not in stranger
    assert "alert" in stranger


def test_events_of_nodes_reach_the_log_host(m1: Host) -> None:
    until(m1, "for name in h1 h2 h3; do grep -q . /var/log/metastack/$name.jsonl; done")
    until(m1, "grep -q '\"event\"' /var/log/metastack/*.jsonl")


# --- day 2


def test_a_member_that_lost_its_data_is_replaced(control: Control, lab: Lab, m1: Host) -> None:
    before = etcd_pids(lab)
    lab.host("h2").run("systemctl stop etcd && rm -rf /var/lib/etcd/metastack")
    control.play("site.yml")
    after = etcd_pids(lab)
    assert (after["h1"], after["h3"]) == (before["h1"], before["h3"])
    assert ready(m1) == set(ETCD)


def test_add_node_makes_a_ready_node(control: Control, lab: Lab, m1: Host) -> None:
    lab.up(["h4"], kind="full")
    control.write(inventory(lab, (*ETCD, "h4")))
    begun = time.monotonic()
    control.play("add-node.yml", node="h4")
    print(f"add-node: {time.monotonic() - begun:.0f} s", flush=True)
    assert ready(m1) == {*ETCD, "h4"}


def test_remove_node_forgets_it(control: Control, lab: Lab, m1: Host) -> None:
    control.play("remove-node.yml", node="h4")
    assert {found["name"] for found in view(m1, "node list")} == set(ETCD)
    assert not lab.host("h4").path("/etc/metastack/pki").exists()
    control.write(inventory(lab, ETCD))


def test_upgrade_keeps_every_guest(control: Control, lab: Lab) -> None:
    before = guests(lab)
    assert before
    control.play("upgrade.yml", cluster_bundle=str(renamed(bundle_of(lab), NEW)))
    for name in ETCD:
        assert f"{NEW} current" in lab.host(name).run("metastack-install-node --list")
    assert guests(lab) == before


def test_the_kept_version_is_the_way_back(control: Control, lab: Lab, m1: Host) -> None:
    before = guests(lab)
    old = lab.host("h1").run("metastack-install-node --list | sed -n 's/ previous//p'").strip()
    assert old
    control.play("upgrade.yml", compute_version=old)
    assert f"{old} current" in lab.host("h3").run("metastack-install-node --list")
    assert guests(lab) == before
    assert ready(m1) == set(ETCD)


def test_rotated_certificates_are_served(control: Control, lab: Lab, m1: Host) -> None:
    def serials() -> list[str]:
        return [
            lab.host(name).run(f"openssl x509 -noout -serial -in {path}")
            for name in ETCD
            for path in (f"/etc/etcd/pki/etcd.{name}.crt", f"/etc/metastack/pki/node.{name}.crt")
        ]

    before, running = serials(), guests(lab)
    control.play("rotate-certs.yml")
    assert not set(before) & set(serials())
    assert guests(lab) == running
    assert ready(m1) == set(ETCD)


def test_a_backup_is_restored_under_running_guests(control: Control, lab: Lab, m1: Host) -> None:
    folder, running = lab.folder / "backups", guests(lab)
    control.play("backup.yml", backup_folder=str(folder))
    saved = next(folder.glob("*.db"))
    for name in ETCD:
        lab.host(name).run("systemctl stop etcd && rm -rf /var/lib/etcd/metastack")
    control.play("restore.yml", backup_file=str(saved), restore_confirm="metastack")
    m1.run("metastack cluster restore --yes --reason 'backup of a moment ago'")
    until(m1, '[ $(metastack node list -o json | grep -c \'"state": "ready"\') = 3 ]')
    assert guests(lab) == running


def test_destroy_wants_the_name_and_no_guest(control: Control) -> None:
    assert "destroy_confirm" in control.play("destroy.yml", check=False).text
    refused = control.play("destroy.yml", check=False, destroy_confirm="metastack")
    assert "Stop its VMs first" in re.sub(r"\s+", " ", refused.text)


def test_destroy_takes_the_cluster_away(control: Control, lab: Lab, m1: Host) -> None:
    m1.run("metastack vm delete v1 --yes")
    control.play("destroy.yml", destroy_confirm="metastack")
    for name in (*ETCD, "m1"):
        assert not lab.host(name).path("/etc/metastack").exists()
        assert not lab.host(name).path("/opt/metastack").exists()
