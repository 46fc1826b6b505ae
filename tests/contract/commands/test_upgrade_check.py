"""What blocks an upgrade, what is a person's decision, and what is neither; on both stores."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from commands_rig import HELLO, Rig, request
from msgspec.structs import replace

from metastack import __version__
from metastack.commands import upgrade_check
from metastack.commands.doctor.facts import collect
from metastack.commands.upgrade_check import UpgradeCheck, check_upgrade
from metastack.commands.vm.change import NewVm, create_vm
from metastack.core.model import (
    Backup,
    ClusterConfig,
    ClusterShutdown,
    Fence,
    Maintenance,
    NodeAlive,
    NodeFacts,
    NodeSpec,
)
from metastack.core.state.codec import encode
from metastack.core.state.record_versions import LEVEL
from metastack.core.transaction import Put
from metastack.store.etcd.store import MemberStatus

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
GOOD = MemberStatus(endpoint="http://e1:2379", version="3.5.28", member_id=1, leader_id=1)
OLD = "0.0.9"


async def node(rig: Rig, name: str, version: str = OLD, **more: Any) -> int:
    await rig.put(rig.keys.node_facts(name), NodeFacts(name=name, uuid=f"uuid-{name}"))
    alive = NodeAlive(name=name, ready=True, record_version=LEVEL, pauses=True, versions={"metastack": version})
    lease = await rig.store.grant(60)
    value = encode(replace(alive, **more))
    return await rig.write(Put(rig.keys.node_alive(name), value, leased=True), lease=lease.id)


@pytest.fixture
async def sound(rig: Rig) -> Rig:
    """Three nodes of the release before, and a backup of an hour ago."""
    for number in (1, 2, 3):
        await node(rig, f"n{number}")
    await saved(rig, hours=1)
    return rig


async def saved(rig: Rig, hours: float) -> None:
    at = (NOW - timedelta(hours=hours)).isoformat()
    record = Backup(at=at, by="me", host="m1", file="/b/1.db", revision=7, size_bytes=1, sha256="x")
    await rig.put(rig.keys.backup(), record)


async def checked(rig: Rig, *members: MemberStatus) -> UpgradeCheck:
    facts = await collect(rig.cluster, __version__, NOW)
    facts.members = members or (GOOD,)
    return check_upgrade(facts)


def told(view: UpgradeCheck) -> list[tuple[str, str, str]]:
    assert all(finding.command for finding in view.findings if finding.severity != "info"), view.findings
    return [(f.severity.value, f.check, f.object) for f in view.findings]


async def test_nothing_blocks_a_sound_cluster(sound: Rig) -> None:
    view = await checked(sound)
    assert (view.ready, view.findings) == (True, [])
    assert (view.version, view.level, view.before, view.agents) == (__version__, LEVEL, LEVEL, {OLD: 3})


async def test_an_upgrade_that_stopped_half_way_may_go_on(sound: Rig) -> None:
    await node(sound, "n1", __version__)
    view = await checked(sound)
    assert view.ready and told(view) == [("info", "releases", "cluster")]
    assert "1 of 3 agents" in view.findings[0].meaning


async def test_a_node_that_is_not_ready_blocks(sound: Rig) -> None:
    await node(sound, "n2", ready=False, message="its storage is silent")
    view = await checked(sound)
    assert not view.ready and told(view) == [("error", "nodes", "node n2")]
    assert "its storage is silent" in view.findings[0].meaning


async def test_a_lost_node_blocks_only_while_it_has_vms(sound: Rig) -> None:
    await sound.image()
    await create_vm(sound.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    session = await node(sound, "n3")
    await sound.claim("n3", session)
    await sound.lose("n3")
    view = await checked(sound)
    assert not view.ready and ("error", "nodes", "node n3") in told(view)
    await sound.lose("n2")
    assert ("warning", "nodes", "node n2") in told(await checked(sound))


async def test_an_open_fence_blocks_at_once(sound: Rig) -> None:
    begun = NOW.isoformat()
    await sound.put(sound.keys.fence("n3"), Fence(intent=True, intent_by="n1", intent_at=begun))
    view = await checked(sound)
    assert not view.ready and ("error", "fences", "node n3") in told(view)


async def test_agents_newer_than_this_program_block(sound: Rig) -> None:
    await node(sound, "n1", "99.0.0")
    view = await checked(sound)
    assert not view.ready and told(view) == [("error", "releases", "node n1")]


async def test_records_newer_than_this_program_block(sound: Rig) -> None:
    await sound.put(sound.keys.cluster(), ClusterConfig(record_version=LEVEL + 1))
    view = await checked(sound)
    assert not view.ready and told(view) == [("error", "record_level", "cluster")]
    assert f"reads up to level {LEVEL}" in view.findings[0].meaning


async def test_a_skipped_release_blocks(sound: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade_check, "OLDEST_LEVEL", LEVEL)
    await node(sound, "n1", record_version=LEVEL - 1)
    view = await checked(sound)
    assert not view.ready and told(view) == [("error", "record_level", "node n1")]
    assert "a release would be skipped" in view.findings[0].meaning


async def test_an_upgrade_before_that_is_unfinished_blocks(sound: Rig) -> None:
    await sound.put(sound.keys.cluster(), ClusterConfig(record_version=LEVEL - 1))
    view = await checked(sound)
    assert not view.ready and told(view) == [("error", "record_level", "cluster")]
    assert "upgrade-finish" in view.findings[0].command
    for number in (1, 2, 3):
        await node(sound, f"n{number}", __version__)
    assert (await checked(sound)).ready  # it is this upgrade that waits to be finished


async def test_an_unreadable_record_blocks(sound: Rig) -> None:
    await sound.write(Put(sound.keys.claim(HELLO), b"{"))
    view = await checked(sound)
    assert not view.ready and ("error", "records", sound.keys.claim(HELLO)) in told(view)


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (replace(GOOD, version="3.4.10"), "older than"),
        (replace(GOOD, alarms=("NOSPACE",)), "NOSPACE"),
        (replace(GOOD, leader_id=0), "sees no leader"),
        (MemberStatus(endpoint="http://e2:2379", error="refused"), "does not answer"),
    ],
)
async def test_an_unfit_etcd_blocks(sound: Rig, member: MemberStatus, why: str) -> None:
    view = await checked(sound, GOOD, member)
    assert not view.ready
    assert why in view.findings[0].meaning and view.findings[0].check == "etcd"


async def test_drains_maintenance_and_old_backups_are_warnings(sound: Rig) -> None:
    await sound.put(sound.keys.node_spec("n1"), NodeSpec(draining=True))
    await sound.put(sound.keys.maintenance(), Maintenance(by="me", reason="a switch"))
    await node(sound, "n2", pauses=False)  # what does not heed it is upgraded now
    await saved(sound, hours=25)
    view = await checked(sound)
    assert view.ready
    assert set(told(view)) == {
        ("warning", "nodes", "node n1"),
        ("warning", "maintenance", "cluster"),
        ("warning", "maintenance", "node n2"),
        ("warning", "backup", "cluster"),
    }


async def test_a_shutdown_of_all_hosts_blocks(sound: Rig) -> None:
    record = ClusterShutdown(by="me", reason="power works", at=NOW.isoformat(), ttl_s=600, boots={})
    await sound.put(sound.keys.cluster_shutdown(), record)
    view = await checked(sound)
    assert not view.ready and told(view) == [("error", "shutdown", "cluster")]


async def test_an_etcd_that_cannot_be_read_blocks(sound: Rig) -> None:
    facts = await collect(sound.cluster, __version__, NOW)
    facts.members, facts.world_why = (GOOD,), "no quorum"
    view = check_upgrade(facts)
    assert not view.ready and {finding.check for finding in view.findings} == {"etcd"}
