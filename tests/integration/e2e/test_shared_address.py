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
import tomli_w
from e2e_lab import Lab

from metastack.lab.dev.cluster import POOL, Cluster
from metastack.lab.dev.plan import CONSOLE_PORT, agent_config

pytestmark = [pytest.mark.proof, pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]
TTL_S = 6
"""Three agents, Ceph and emulated guests share two busy cores: one that stalls for 3 s is fenced, rightly."""
SLOW_S = 120
"""What an emulated guest may take to boot there; nothing that is asserted depends on it."""


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
        config = agent_config(host, CONSOLE_PORT, self.cluster.node_store_settings(host.name), settings)
        host.agent_config.write_text(tomli_w.dumps({**config, "storage_addresses": [self.address]}))
        host.start_agent()

    def seen(self) -> str:
        """And what the storage and the machines know: who is shut out, who has what open, what runs."""
        parts = [super().seen()]
        for words in (("vm", "list", "-o", "json"), ("fence", "list"), ("events",), ("doctor",)):
            done = self.run(*words)
            parts.append(f"--- {' '.join(words)}\n{done.stdout}{done.stderr}")
        parts += [
            f"--- QEMU on {name}\n" + "\n".join(map(str, self.qemu(name))) for name in self.cluster.state.nodes
        ]
        parts.append(asyncio.run(self._storage_says()))
        for name, host in self.cluster.hosts.items():
            log = Path(host.agent_log)
            parts.append(f"--- whole log of {name}\n" + (log.read_text() if log.exists() else "none"))
        return "\n".join(parts)

    async def _storage_says(self) -> str:
        ceph = self.cluster.ceph
        assert ceph is not None
        parts = []
        for words in (("osd", "blocklist", "ls"), ("auth", "ls"), ("status",)):
            try:
                said = (await ceph.ceph(*words)).decode(errors="replace")
            except Exception as error:  # whatever the storage's trouble is: it is told, with the rest
                said = f"{type(error).__name__}: {error}"
            # Keys are secrets also of a cluster that lives for a minute.
            said = "\n".join(line for line in said.splitlines() if not line.strip().startswith("key:"))
            parts.append(f"--- ceph {' '.join(words)}\n{said}")
        return "\n".join(parts)

    def doctor(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("doctor", "-o", "json").stdout)
        return found


@pytest.fixture
def shared(home: Path, guest_image: Path, request: pytest.FixtureRequest) -> Iterator[SharedLab]:
    failed = request.session.testsfailed
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
        if request.session.testsfailed > failed:
            print(lab.seen())
    finally:
        cluster.down()


def test_a_node_behind_a_shared_address_returns(shared: SharedLab) -> None:
    lab = shared
    assert {tuple(lab.node(n)["storage_addresses"]) for n in ("n1", "n2", "n3")} == {(lab.address,)}
    moves = lab.create("moves")
    victim = moves["node"]
    other = next(name for name in lab.cluster.state.nodes if name != victim)
    lab.do("vm", "create", "stays", "--image", "tiny", "--memory", "96MiB", "--node", other)
    assert lab.boots("moves", SLOW_S) == lab.boots("stays", SLOW_S) == 1
    epoch = lab.vm("stays")["epoch"]
    lab.cluster.kill_node(victim)
    fenced_s = lab.until(
        "it is fenced", lambda: (lab.node(victim)["fence"] or {}).get("state") == "fenced", SLOW_S
    )
    view = lab.json("fence", "show", victim)
    print(f"fenced {fenced_s:.1f} s after the power cut: {view['clients']} {view['verified']}")
    assert (view["method"], view["users"]) == ("ceph-blocklist-clients", [f"node-{victim}-guests"])
    assert view["addresses"] == []
    assert len(view["clients"]) >= 2, "its agent and its guest"
    ceph = lab.cluster.ceph
    assert ceph is not None
    listed = asyncio.run(ceph.ceph("osd", "blocklist", "ls"))
    assert f"{lab.address}:0/0".encode() not in listed
    after = lab.until_vm("moves", SLOW_S, phase="running", node=lambda n: n != victim)
    assert lab.boots("moves", SLOW_S) == 2
    # Its neighbours at the same address run on.
    assert lab.vm("stays")["epoch"] == epoch
    assert lab.boots("stays", SLOW_S) == 1
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
    assert lab.boots("new", SLOW_S) == 1, "its guests have their rights again"


def test_a_frozen_node_behind_a_shared_address_cannot_write(shared: SharedLab) -> None:
    lab = shared
    vm = lab.create("frozen")
    assert lab.boots("frozen", SLOW_S) == 1
    host = lab.cluster.host(vm["node"])
    host.freeze_agent()
    after = lab.until_vm("frozen", SLOW_S, phase="running", node=lambda n: n != vm["node"])
    assert lab.boots("frozen", SLOW_S) == 2
    host.thaw_agent()
    lab.until("the old guest is killed", lambda: not lab.qemu(vm["node"]), SLOW_S)
    lab.until_all_ready()
    assert lab.vm("frozen")["epoch"] == after["epoch"]
    assert lab.boots("frozen", SLOW_S) == 2
