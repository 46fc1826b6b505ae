"""docs/guide/install.md by hand: its own blocks, on three Debian 13 hosts, up to the failover."""

from __future__ import annotations

import json
import re
from pathlib import Path

import node
import pytest
from hosts import Host, Lab

from metastack.lab.dev import guest, proc

pytestmark = [pytest.mark.install, pytest.mark.timeout(1800)]
PAGE = (node.CHECKOUT / "docs/guide/install.md").read_text()
BLOCKS = re.findall(r"```sh\n# on ([^\n]*)\n(.*?)```", PAGE.split("## Nodes by hand")[1], re.S)
"""Where a block runs, and its commands."""
NAMES = ["n1", "n2", "n3"]


def block(starts: str) -> str:
    """The block that has this text."""
    found = [text for _, text in BLOCKS if starts in text]
    assert len(found) == 1, starts
    return found[0]


def here(text: str, host: Host) -> str:
    """A block with the addresses of the lab, as the reader would put in his own."""
    own = f"name={host.name} address={host.address} "
    return text.replace("name=n1 address=10.0.0.11 ", own).replace("10.0.0.1", "10.91.0.1")


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> list[Host]:
    made = lab.up(NAMES, kind="full")
    names = "".join(f"{host.address} {host.name}\n" for host in made)
    for host in made:
        assert host.address == f"10.91.0.1{host.name[1:]}"
        host.put(node.bundle(), f"/root/{node.bundle().name}")
        host.run(f"sed -i '/127.0.1.1/d' /etc/hosts; printf %s '{names}' >>/etc/hosts")
        host.run(node._BRIDGE)
    node.mini_ceph(made[0])
    cache = Path("/var/tmp/metastack-lab/guest")
    cache.mkdir(parents=True, exist_ok=True)
    made[0].put(guest.image(cache), "/root/guest.img")
    return made


def test_three_bare_hosts_to_a_failover(lab: Lab, hosts: list[Host]) -> None:
    first = hosts[0]
    for host in hosts:
        host.run(here(block("apt-get install"), host))
    first.run(here(block("pki init"), first))
    for number, host in enumerate(hosts, 1):
        host.put(first.path(f"/root/etcd-n{number}"), "/etc/etcd/pki")
    for host in hosts:
        # The first members wait for the others: start them all, then wait.
        host.run(here(block("ETCD_NAME"), host).replace("enable --now etcd", "enable etcd"))
        host.run("systemctl start --no-block etcd")
    for starts in ("cluster init", "ceph osd pool create", "pki-serve.toml"):
        first.run(here(block(starts), first))
    for host in hosts:
        words = here(block("token create"), host).replace("n2", host.name).replace("10.91.0.12", host.address)
        token = first.run(words).strip()
        host.run(block("node join").split("#")[0], input=f"{token}\n")
    said = first.run(here(block("vm create"), first))
    print(said)

    vm = json.loads(first.run("metastack vm show v1 -o json"))
    if vm["node"] == "n1":
        first.run("metastack vm move v1 n2 --cold")
        vm = json.loads(first.run("metastack vm show v1 -o json"))
    lab.host(vm["node"]).power_cut()

    def elsewhere() -> bool:
        now = json.loads(first.run("metastack vm show v1 -o json"))
        return now["phase"] == "running" and now["node"] != vm["node"]

    proc.wait_for(elsewhere, 90.0, lambda: first.run("metastack status; metastack vm list; journalctl -n 30"))
    fences = json.loads(first.run("metastack fence list -o json"))
    assert [one["name"] for one in fences if one["state"] == "fenced"] == [vm["node"]]
