"""The end of an upgrade: who stands in the way, what is written before and after, on both stores."""

from __future__ import annotations

import json

import pytest
from commands_rig import HELLO, Rig, request
from msgspec.structs import replace

from metastack import __version__
from metastack.commands.cluster import settings
from metastack.commands.cluster.status import cluster_view
from metastack.commands.cluster.upgrade import finish_upgrade, look_at_upgrade
from metastack.commands.cluster.upgrade_views import unfinished
from metastack.commands.doctor import examine
from metastack.commands.doctor.facts import collect
from metastack.commands.problem import Problem
from metastack.commands.reading import EVERYTHING, read_world
from metastack.commands.request import Cluster
from metastack.commands.vm.change import NewVm, create_vm
from metastack.commands.vm.console_tickets import create_ticket
from metastack.core.model import ClusterConfig, NodeAlive, NodeFacts
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import decode, encode
from metastack.core.state.keys import Kind
from metastack.core.state.record_versions import LEVEL, RELEASES, settings_bytes
from metastack.core.transaction import Delete, Put
from metastack.lab.sim.engine.older_release import older


async def before(rig: Rig, **more: object) -> Rig:
    """A cluster of the release before."""
    await rig.write(Put(rig.keys.cluster(), settings_bytes(ClusterConfig(**more))))  # type: ignore[arg-type]
    return Rig(Cluster(rig.store, rig.keys))


async def node(rig: Rig, name: str, understands: int) -> None:
    """A living node whose agent understands that level; 0: an agent of before nodes said it."""
    await rig.put(rig.keys.node_facts(name), NodeFacts(name=name, uuid=f"uuid-{name}"))
    alive = NodeAlive(name=name, ready=True, record_version=understands, versions={"metastack": "0.1.0"})
    lease = await rig.store.grant(60)
    await rig.write(Put(rig.keys.node_alive(name), encode(alive), leased=True), lease=lease.id)


async def world_of(rig: Rig) -> ClusterState:
    return await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING))


async def raw(rig: Rig, key: str) -> dict[str, object]:
    entry = await rig.store.get(key)
    assert entry is not None
    return json.loads(entry.value)  # type: ignore[no-any-return]


async def test_it_says_what_it_would_do_and_writes_nothing(rig: Rig) -> None:
    rig = await before(rig)
    await node(rig, "n1", LEVEL)
    view = await look_at_upgrade(rig.cluster)
    assert (view.before, view.level, view.done) == (1, LEVEL, False)
    assert any(line.startswith("cluster: 2 becomes") for line in view.records)
    assert (await raw(rig, rig.keys.cluster()))["v"] == 2


async def test_the_level_is_raised_once_with_an_event(rig: Rig) -> None:
    rig = await before(rig, lease_ttl_s=7)
    await node(rig, "n1", LEVEL)
    assert (await finish_upgrade(rig.cluster, request("all are upgraded"))).done
    config = decode(ClusterConfig, (await rig.store.get(rig.keys.cluster())).value)  # type: ignore[union-attr]
    assert (config.record_version, config.lease_ttl_s) == (LEVEL, 7)  # what people set stays
    (event,) = [e for e in await rig.events() if e.what == "cluster.upgrade-finish"]
    assert (event.reason, event.object) == ("all are upgraded", "cluster")
    again = await finish_upgrade(rig.cluster, request("again"))
    assert again.done and again.before == LEVEL
    assert len([e for e in await rig.events() if e.what == "cluster.upgrade-finish"]) == 1


async def test_a_cluster_without_settings_is_of_the_first_level(rig: Rig) -> None:
    await rig.write(Delete(rig.keys.cluster()))
    await node(rig, "n1", LEVEL)
    assert (await look_at_upgrade(rig.cluster)).before == 1
    assert (await finish_upgrade(rig.cluster, request())).done
    assert await rig.cluster.config() == ClusterConfig(record_version=LEVEL)


async def test_it_is_refused_while_an_older_agent_lives(rig: Rig) -> None:
    rig = await before(rig)
    await node(rig, "n1", LEVEL)
    await node(rig, "n2", 0)
    with pytest.raises(Problem) as refused:
        await finish_upgrade(rig.cluster, request())
    assert "n2: its agent 0.1.0 reads records of level 1" in str(refused.value)
    assert "n1" not in str(refused.value)
    assert "upgrade these agents" in refused.value.hint
    assert (await raw(rig, rig.keys.cluster()))["v"] == 2


async def test_a_node_with_an_unreadable_record_blocks_it(rig: Rig) -> None:
    rig = await before(rig)
    await node(rig, "n1", LEVEL)
    await rig.write(Put(rig.keys.node_alive("n2"), b'{"v": 99}'))
    with pytest.raises(Problem, match="n2: its alive record cannot be read"):
        await finish_upgrade(rig.cluster, request())


async def test_a_silent_node_has_to_be_left_out_by_name(rig: Rig) -> None:
    rig = await before(rig)
    await node(rig, "n1", LEVEL)
    await rig.put(rig.keys.node_facts("n2"), NodeFacts(name="n2", uuid="u"))
    with pytest.raises(Problem, match="not alive is unknown: n2") as refused:
        await finish_upgrade(rig.cluster, request())
    assert "--without n2" in refused.value.hint
    for wrong, why in (("n1", "is alive"), ("n9", "does not exist")):
        with pytest.raises(Problem, match=why):
            await finish_upgrade(rig.cluster, request(), ("n2", wrong))
    assert (await finish_upgrade(rig.cluster, request(), ("n2",))).without == ["n2"]


async def test_it_is_refused_when_the_settings_cannot_be_read(rig: Rig) -> None:
    await node(rig, "n1", LEVEL)
    await rig.write(Put(rig.keys.cluster(), b"{"))
    for step in (look_at_upgrade(rig.cluster), finish_upgrade(rig.cluster, request())):
        with pytest.raises(Problem, match="config: its record cannot be read"):
            await step
    assert (await rig.store.get(rig.keys.cluster())).value == b"{"  # type: ignore[union-attr]


async def test_the_level_is_not_set_by_hand(rig: Rig) -> None:
    for give in (
        lambda: settings.parse_settings(["record_version=1"]),
        lambda: settings.defaults_of(["record_version"]),
    ):
        with pytest.raises(Problem, match="cannot be set by hand") as refused:
            give()
        assert "metastack cluster upgrade-finish" in refused.value.hint
    shown = {one.key: one for one in await settings.show_settings(rig.cluster)}
    assert shown["record_version"].value == LEVEL


async def test_commands_write_the_old_level_until_finished(rig: Rig) -> None:
    rig = await before(rig)
    await rig.image()
    await node(rig, "n1", LEVEL)
    await create_vm(rig.cluster, request("r"), NewVm(vm=HELLO, image="tiny"))
    await settings.set_settings(rig.cluster, request("r"), {"lease_ttl_s": 9})
    snapshot = await rig.store.list(*rig.keys.prefixes(Kind))
    rewritten = [e for e in snapshot.entries if "nodes/n1" not in e.key]  # those the test wrote
    assert len(rewritten) > 4
    for entry in rewritten:
        assert older(1).reads(rig.keys, entry) == ""
    assert (await rig.cluster.config()).lease_ttl_s == 9


async def test_a_newer_setting_is_refused_during_the_upgrade(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await before(rig)
    known = {k: v for k, v in RELEASES[1].demands["cluster"].items() if k != "grace_s"}
    monkeypatch.setitem(RELEASES[1].demands, "cluster", known)  # type: ignore[arg-type]
    await settings.set_settings(rig.cluster, request(), {"lease_ttl_s": 9})
    with pytest.raises(
        Problem, match="config: grace_s: the cluster still writes records of an older release"
    ) as no:
        await settings.set_settings(rig.cluster, request(), {"grace_s": 2.0})
    assert "upgrade-finish" in no.value.hint
    await node(rig, "n1", LEVEL)
    await finish_upgrade(rig.cluster, request())
    await settings.set_settings(rig.cluster, request(), {"grace_s": 2.0})
    assert (await rig.cluster.config()).grace_s == 2.0


async def test_the_nodes_agent_finds_a_console_ticket(rig: Rig) -> None:
    rig = await before(rig)
    await rig.image()
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    for understands in (0, LEVEL):
        await node(rig, "n1", understands)
        found = (await world_of(rig)).alive("n1")
        assert found is not None
        await rig.put(rig.keys.node_alive("n1"), replace(found.ok, console="10.0.0.1:1"))
        await rig.claim("n1", 7)
        ticket = (await create_ticket(rig.cluster, request(), HELLO)).ticket
        keys = [rig.keys.ticket_as_told(ticket), rig.keys.ticket(ticket)]
        there = [await rig.store.get(key) is not None for key in keys]
        assert there == ([True, False] if understands == 0 else [False, True])


async def test_status_and_doctor_say_what_is_left_of_an_upgrade(rig: Rig) -> None:
    async def told() -> tuple[str, list[tuple[str, str]]]:
        world = await world_of(rig)
        facts = await collect(rig.cluster, __version__, request_time())
        notes = "; ".join(cluster_view(world).notes)
        return notes, [(f.object, f.severity) for f in examine(facts) if f.check == "upgrade"]

    rig = await before(rig)
    await node(rig, "n1", 0)
    assert await told() == ("", [])  # nobody has begun
    await node(rig, "n2", LEVEL)
    notes, found = await told()
    assert "in progress: the agents of n1" in notes and found == [("cluster", "warning")]
    await node(rig, "n1", LEVEL)
    notes, found = await told()
    assert "unfinished" in notes and "metastack cluster upgrade-finish" in notes
    assert found == [("cluster", "warning")]
    await finish_upgrade(rig.cluster, request())
    assert await told() == ("", [])
    await node(rig, "n1", 0)  # somebody went back to the release before
    notes, found = await told()
    assert (notes, found) == ("", [("node n1", "error")])
    assert unfinished(await world_of(rig)) == ""


def request_time():  # type: ignore[no-untyped-def]
    from datetime import UTC, datetime

    return datetime(2026, 1, 1, tzinfo=UTC)
