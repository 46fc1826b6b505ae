"""The etcd gateway under a real systemd: a node reaches etcd's members at its own 127.0.0.1."""

from __future__ import annotations

import re

import node
import pytest
from hosts import Host, Lab

pytestmark = [pytest.mark.install, pytest.mark.timeout(600)]
UNIT = "metastack-etcd-gateway"
HEALTH = "etcdctl --endpoints 127.0.0.1:2379 --dial-timeout 5s endpoint health 2>&1"


@pytest.fixture(scope="module")
def member(lab: Lab) -> Host:
    found = lab.up(["e1", "g1"], kind="full")[0]
    found.run(
        f"""
        echo 'ETCD_LISTEN_CLIENT_URLS=http://127.0.0.1:2379,http://{found.address}:2379' >>/etc/default/etcd
        echo 'ETCD_ADVERTISE_CLIENT_URLS=http://{found.address}:2379' >>/etc/default/etcd
        systemctl restart etcd"""
    )
    return found


@pytest.fixture(scope="module")
def gateway(lab: Lab, member: Host) -> Host:
    found = lab.host("g1")
    found.run("systemctl disable -q --now etcd")
    node.install(found)
    # The first member is not there: the gateway goes on to the next.
    found.run(
        f"""
        echo ENDPOINTS=10.91.0.99:2379,{member.address}:2379 >/etc/metastack/etcd-gateway.env
        systemctl daemon-reload && systemctl enable -q --now {UNIT}
        timeout 30 bash -c 'until {HEALTH}; do sleep 0.2; done'"""
    )
    return found


def test_etcd_answers_behind_a_dead_member(gateway: Host) -> None:
    assert "is healthy" in gateway.run(HEALTH)


def test_it_is_nobody_with_no_right(gateway: Host) -> None:
    pid = gateway.run(f"systemctl show {UNIT} -p MainPID --value").strip()
    status = dict(re.findall(r"^(\w+):\s+(.*)$", gateway.run(f"cat /proc/{pid}/status"), re.M))
    assert int(status["CapBnd"], 16) == 0
    assert status["Uid"].split()[0] != "0"


def test_it_cannot_read_the_node_s_settings(gateway: Host) -> None:
    pid = gateway.run(f"systemctl show {UNIT} -p MainPID --value").strip()
    gateway.run("touch /etc/metastack/pki/node.key")
    assert gateway.run("ls /etc/metastack/pki") == "node.key\n"
    assert gateway.run(f"nsenter -t {pid} -m ls /etc/metastack/pki") == ""


def test_it_is_back_after_its_death(gateway: Host) -> None:
    pid = gateway.run(f"systemctl show {UNIT} -p MainPID --value").strip()
    gateway.run(f"kill -KILL {pid}; timeout 30 bash -c 'until {HEALTH}; do sleep 0.2; done'")
    assert gateway.run(f"systemctl show {UNIT} -p MainPID --value").strip() != pid


def test_its_figure_is_no_worse_than_documented(gateway: Host) -> None:
    said = gateway.run(f"systemd-analyze security {UNIT} --no-pager | tail -1")
    page = (node.CHECKOUT / "docs/reference/hardening.md").read_text()
    documented = re.findall(rf"`{UNIT}.service` \| ([0-9.]+) \|", page)[0]
    assert float(re.findall(r"service: ([0-9.]+)", said)[0]) <= float(documented)
