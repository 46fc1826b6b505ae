"""Which VMs a MAC's news bear on, and how often."""

from __future__ import annotations

from pathlib import Path

from agent_rig import KEYS, lab_of

from metastack.agent.report.guest_macs import NEWS_EVERY_S, GuestMacs
from metastack.core.model import Claim, Nic, VmId, VmSpec
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys
from metastack.core.transaction import Entry, Snapshot


def _spec(name: str, *macs: str) -> VmSpec:
    nics = tuple(Nic(mac=mac, bridge="br0") for mac in macs)
    return VmSpec(
        project="default",
        name=name,
        uuid=f"u-{name}",
        image="tiny",
        image_uuid="i",
        volume_uuid=f"v-{name}",
        cpus=1,
        memory_mib=64,
        disk_bytes=1 << 20,
        nics=nics,
    )


def _claim(name: str, node: str) -> Claim:
    return Claim(node=node, session=1, uuid=f"u-{name}", volume_uuid=f"v-{name}", claim_id="c")


def _world(specs: dict[str, VmSpec], claims: dict[str, Claim]) -> tuple[ClusterState, GuestMacs]:
    keys = Keys()
    world, macs = ClusterState(keys), GuestMacs("n1")
    _load(world, macs, specs, claims)
    return world, macs


def _load(world: ClusterState, macs: GuestMacs, specs: dict[str, VmSpec], claims: dict[str, Claim]) -> None:
    entries = [(KEYS.vm_spec(VmId("default", name)), encode(spec)) for name, spec in specs.items()]
    entries += [(KEYS.claim(VmId("default", name)), encode(claim)) for name, claim in claims.items()]
    found = tuple(Entry(key, value, 1, 1, 1) for key, value in entries)
    macs.follow(world.load(Snapshot(1, found)), world)


def test_only_mine_and_only_now() -> None:
    a, b, c = VmId("default", "a"), VmId("default", "b"), VmId("default", "c")
    specs = {"a": _spec("a", "m1", "m2"), "b": _spec("b", "m2"), "c": _spec("c", "m1")}
    world, macs = _world(specs, {"a": _claim("a", "n1"), "b": _claim("b", "n1"), "c": _claim("c", "n2")})
    assert macs.news("m1", 10.0) == [(a, 0.0)]
    assert macs.news("m9", 10.0) == []
    assert [vm for vm, _ in macs.news("m2", 20.0)] == [a, b]
    _load(world, macs, {"a": _spec("a", "m3")}, {"a": _claim("a", "n1"), "c": _claim("c", "n1")})
    assert [vm for vm, _ in macs.news("m1", 30.0)] == []
    assert [vm for vm, _ in macs.news("m3", 30.0)] == [a]
    assert macs.news("m2", 30.0) == []
    assert c not in [vm for vm, _ in macs.news("m1", 30.0)], "its spec is gone"


def test_a_vm_is_looked_at_once_a_second() -> None:
    vm = VmId("default", "a")
    _, macs = _world({"a": _spec("a", "m1")}, {"a": _claim("a", "n1")})
    assert macs.news("m1", 100.0) == [(vm, 0.0)]
    looks = {
        100.0 + number / 4000 + delay
        for number in range(1, 4000)
        for _, delay in macs.news("m1", 100.0 + number / 4000)
    }
    assert {round(at, 6) for at in looks} == {100.0 + NEWS_EVERY_S}
    assert macs.news("m1", 101.5)[0][1] == 0.0


async def test_an_address_is_published(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        spec = await lab.want("hello")
        await lab.until("running", lambda: b'"running"' in (lab.entry(KEYS.vm_status(spec.id)) or b""))
        network = lab.hosts["n1"].agent.node.network
        for number in range(7, 10):
            network.teach(spec.nics[0].mac, f"10.0.0.{number}")
        await lab.until("published", lambda: b'"10.0.0.9"' in (lab.entry(KEYS.vm_status(spec.id)) or b""), 10)
