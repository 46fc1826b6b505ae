"""Three nodes that the storage sees under one address (source NAT), fenced by single clients."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_lab import Lab

from metastack import contexts
from metastack.dev.cluster import POOL, Cluster
from metastack.dev.plan import CONSOLE_PORT, agent_config

pytestmark = [pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]
TTL_S = 3


class SharedLab(Lab):
    """Its agents declare the address that they share, and their guests have users of their own."""

    @property
    def address(self) -> str:
        fabric = self.cluster.fabric
        assert fabric is not None
        return fabric.subnets.node(200)

    def translate(self) -> None:
        """Ceph's side of the network takes every node for the same one."""
        fabric = self.cluster.fabric
        assert fabric is not None
        nodes = ", ".join(host.address for host in self.cluster.hosts.values())
        rules = f"""\
table ip shared {{
  chain input {{
    type nat hook input priority 100;
    ip saddr {{ {nodes} }} ip daddr {fabric.subnets.ceph} snat to {self.address}
  }}
}}
"""
        subprocess.run([*fabric.prefix, "nft", "-f", "-"], input=rules, text=True, check=True, timeout=30)

    async def users(self) -> None:
        ceph = self.cluster.ceph
        assert ceph is not None
        for name in self.cluster.state.nodes:
            await ceph.ceph("auth", "rm", f"client.node-{name}")
            await ceph.create_node_user(f"node-{name}", self.address, pool=POOL, guests=True)

    def start(self, name: str) -> None:
        self.cluster.start_node(name, agent=False)
        host = self.cluster.host(name)
        settings = self.cluster.storage_settings(name)
        assert settings.guest_user == f"node-{name}-guests"
        config = agent_config(host, CONSOLE_PORT, self.cluster.etcd.endpoints, settings)
        host.agent_config.write_text(contexts.to_toml({**config, "storage_addresses": [self.address]}))
        host.start_agent()

    def doctor(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("doctor", "-o", "json").stdout)
        return found


@pytest.fixture
def shared(home: Path, guest_image: Path) -> Iterator[SharedLab]:
    cluster = Cluster("s")
    cluster.up(nodes=3, storage="ceph", ttl_s=TTL_S, agents=False)
    try:
        os.environ["METASTACK_CONTEXT"] = "s"
        lab = SharedLab(cluster)
        lab.translate()
        asyncio.run(lab.users())
        lab.do("config", "set", "fencing=client", "--reason", "one address for all")
        for name in cluster.state.nodes:
            lab.start(name)
        lab.until_all_ready()
        lab.do("image", "import", "tiny", str(guest_image))
        yield lab
    finally:
        cluster.down()


def test_a_node_behind_a_shared_address_is_lost_and_comes_back(shared: SharedLab) -> None:
    lab = shared
    assert {tuple(lab.node(n)["storage_addresses"]) for n in ("n1", "n2", "n3")} == {(lab.address,)}
    moves = lab.create("moves")
    victim = moves["node"]
    other = next(name for name in lab.cluster.state.nodes if name != victim)
    lab.do("vm", "create", "stays", "--image", "tiny", "--memory", "96MiB", "--node", other)
    assert lab.boots("moves") == lab.boots("stays") == 1
    epoch = lab.vm("stays")["epoch"]
    lab.cluster.kill_node(victim)
    fenced_s = lab.until("it is fenced", lambda: (lab.node(victim)["fence"] or {}).get("state") == "fenced", 60)
    view = lab.json("fence", "show", victim)
    print(f"fenced {fenced_s:.1f} s after the power cut: {view['clients']} {view['verified']}")
    assert (view["method"], view["users"]) == ("ceph-blocklist-clients", [f"node-{victim}-guests"])
    assert view["addresses"] == []
    assert len(view["clients"]) >= 2, "its agent and its guest"
    ceph = lab.cluster.ceph
    assert ceph is not None
    listed = asyncio.run(ceph.ceph("osd", "blocklist", "ls"))
    assert f"{lab.address}:0/0".encode() not in listed
    after = lab.until_vm("moves", 60, phase="running", node=lambda n: n != victim)
    assert lab.boots("moves") == 2
    # Its neighbours at the same address run on.
    assert lab.vm("stays")["epoch"] == epoch
    assert lab.boots("stays") == 1
    found = {(f["severity"], f["check"], f["object"]) for f in lab.doctor()}
    assert ("warning", "fencing", "config fencing") in found
    assert not {check for severity, check, _ in found if severity == "error"} & {
        "storage_addresses",
        "fence_blocked",
    }
    lab.start(victim)
    lab.until_all_ready()
    assert lab.vm("moves")["epoch"] == after["epoch"]
    lab.create("new", "--node", victim)
    assert lab.boots("new") == 1, "its guests have their rights again"


def test_a_frozen_node_behind_a_shared_address_cannot_write(shared: SharedLab) -> None:
    lab = shared
    vm = lab.create("frozen")
    assert lab.boots("frozen") == 1
    host = lab.cluster.host(vm["node"])
    host.freeze_agent()
    after = lab.until_vm("frozen", 60, phase="running", node=lambda n: n != vm["node"])
    assert lab.boots("frozen") == 2
    host.thaw_agent()
    lab.until("the old guest is killed", lambda: not lab.qemu(vm["node"]), 60)
    lab.until_all_ready()
    assert lab.vm("frozen")["epoch"] == after["epoch"]
    assert lab.boots("frozen") == 2
