"""What readers see of the records, and waiting until it is so."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from commands_rig import HELLO, Rig, request

from metastack.commands.cluster.status import cluster_view
from metastack.commands.doctor import examine
from metastack.commands.doctor.facts import collect
from metastack.commands.node import change as nodes
from metastack.commands.node.views import node_infos
from metastack.commands.problem import Code, Problem
from metastack.commands.reading import EVERYTHING, follow, read_world
from metastack.commands.vm import change as vms
from metastack.commands.vm.change import NewVm
from metastack.commands.vm.console_tickets import create_ticket, opened_after
from metastack.commands.vm.explain import explain_vm
from metastack.commands.vm.look import look_at_vm
from metastack.commands.vm.views import VmView, vm_views
from metastack.commands.vm.wait import Goal, wait_vm
from metastack.core.model import (
    Claim,
    ClusterConfig,
    Fence,
    FenceReceipt,
    NodeAlive,
    Phase,
    Silenced,
    Ticket,
    VmId,
    VmStatus,
)
from metastack.core.state.codec import decode
from metastack.core.transaction import Delete, Put

VM_KEYS = (
    *("name", "project", "uuid", "power", "phase", "node", "epoch", "ips", "labels", "cpus"),
    *("memory_mib", "message", "since"),
)
NODE_KEYS = (
    *("name", "state", "session", "address", "storage_address", "capacity", "allocated", "vms"),
    *("hypervisor", "message", "since"),
)


async def see(rig: Rig, vm: VmId = HELLO) -> VmView:
    world = await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING))
    [view] = [view for view in vm_views(world) if view.id == vm]
    assert await look_at_vm(rig.cluster, vm) == view, "the one-VM look sees the same"
    return view


async def make(rig: Rig, **more: Any) -> None:
    await rig.image()
    await vms.create_vm(rig.cluster, request(), NewVm(**{"vm": HELLO, "image": "tiny", **more}))


async def test_keys_are_never_absent(rig: Rig) -> None:
    await make(rig)
    await rig.node("n1")
    world = await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING))
    vm = msgspec.json.decode(msgspec.json.encode(vm_views(world)[0]))
    assert [key for key in VM_KEYS if key not in vm] == []
    assert (vm["node"], vm["epoch"], vm["since"], vm["ips"]) == (None, None, None, [])
    node = msgspec.json.decode(msgspec.json.encode(node_infos(world)[0]))
    assert [key for key in NODE_KEYS if key not in node] == []
    assert node["capacity"] == {"cpus": 4.0, "memory_mib": 8192, "other": {}}


async def test_pending_says_which_nodes_refuse_and_why(rig: Rig) -> None:
    await make(rig, memory_mib=4096)
    assert (await see(rig)).message == "no node has joined this cluster yet"
    await rig.node("n1", memory_mib=2048)
    await rig.node("n2")
    await nodes.cordon_node(rig.cluster, request(), "n2")
    view = await see(rig)
    assert view.phase == "pending"
    assert view.message is not None
    assert "n1: needs 4096 MiB of memory, 1024 of 1024 are free" in view.message
    assert "n2: the node is cordoned" in view.message
    await nodes.uncordon_node(rig.cluster, request(), "n2")
    assert (await see(rig)).message == "n2 is to claim it"


async def test_phases_follow_the_records(rig: Rig) -> None:
    await make(rig)
    session = await rig.node("n1")
    await rig.claim("n1", session, phase=None)
    view = await see(rig)
    assert (view.phase, view.node, view.session) == ("claimed", "n1", session)
    assert view.message == "node n1 owns it but does not report on it now"
    assert view.epoch
    await rig.status("n1", session, Phase.RUNNING)
    view = await see(rig)
    assert (view.phase, view.ips, view.since) == ("running", ["10.0.0.9"], "2026-01-02T03:04:05Z")
    await vms.restart_vm(rig.cluster, request(), HELLO)
    assert (await see(rig)).message == "asked to restart"
    await vms.stop_vm(rig.cluster, request(), HELLO)
    assert (await see(rig)).message == "asked to stop"
    await rig.release()
    assert (await see(rig)).phase == "stopped"
    await vms.start_vm(rig.cluster, request(), HELLO)
    await rig.halt()
    view = await see(rig)
    assert (view.phase, view.power, view.since) == ("stopped", "on", "2026-01-03T00:00:00Z")
    assert "shut itself down" in (view.message or "")


async def test_a_lost_node_is_said(rig: Rig) -> None:
    await make(rig)
    session = await rig.node("n1")
    await rig.claim("n1", session)
    await rig.lose("n1")
    await rig.write(Delete(rig.keys.vm_status(HELLO)))
    view = await see(rig)
    assert view.phase == "claimed"
    assert "node n1 is lost" in (view.message or "")
    world = await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING))
    [node] = node_infos(world)
    assert (node.state, node.session, node.vms) == ("lost", None, 1)
    status = cluster_view(world)
    assert not status.ok
    assert status.brake_engaged, "one of one is more than half"
    assert "brake" in status.summary
    newer = await rig.node("n1")
    assert newer > session
    assert "has not adopted" in ((await see(rig)).message or "")


async def test_a_silent_storage_is_said(rig: Rig) -> None:
    await make(rig)
    session = await rig.node("n1")
    await rig.claim("n1", session)
    key = rig.keys.node_alive("n1")
    entry = await rig.store.get(key)
    assert entry is not None
    since = "2026-01-02T04:00:00Z"
    told = decode(NodeAlive, entry.value)
    silent = msgspec.structs.replace(told, storage="ceph", storage_ok=False, storage_silent_since=since)
    await rig.put(key, silent)
    view = await see(rig)
    assert (view.phase, view.since) == ("stalled", since)
    assert "the storage has not answered n1" in (view.message or "")
    world = await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING))
    [node] = node_infos(world)
    assert (node.storage_silent_since, node.state) == (since, "ready")
    assert since in (node.message or "")
    status = cluster_view(world)
    assert not status.ok
    assert [problem for problem in status.problems if "stalled" in problem] == [
        f"node n1: the storage has not answered since {since}; 1 VM is stalled; "
        "the storage of 1 of 1 nodes is silent: no node is fenced for it"
    ]
    found = [
        f for f in examine(await collect(rig.cluster, "", datetime.now(UTC))) if f.check == "storage_silent"
    ]
    assert [f.object for f in found] == ["node n1"]
    await rig.put(key, msgspec.structs.replace(told, storage="ceph"))
    assert (await see(rig)).phase == "running"


async def test_a_node_fenced_alive_is_not_called_expired(rig: Rig) -> None:
    session = await rig.node("n1")
    reason = "its storage was silent since noon, and answers n3"
    mark = Silenced(node="n1", by="n2", reason=reason)
    await rig.put(rig.keys.silenced(), mark)
    fence = Fence(
        through=session, receipt=FenceReceipt(at="now", by="n2", method="ceph-blocklist", reason=reason)
    )
    await rig.put(rig.keys.fence("n1"), fence)
    await rig.lose("n1")
    [node] = node_infos(await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING)))
    assert (node.message or "").startswith(f"it was fenced while alive, because {reason}; fenced at now by n2")


async def test_an_engaged_brake_is_reported_with_its_remedy(rig: Rig) -> None:
    await make(rig)
    await rig.claim("n1", await rig.node("n1"), phase=None)
    await rig.node("n2")
    await rig.lose("n1")
    assert "once it is fenced" in ((await see(rig)).message or "")
    key = rig.keys.node_alive("n2")
    entry = await rig.store.get(key)
    assert entry is not None
    await rig.put(
        key, msgspec.structs.replace(decode(NodeAlive, entry.value), brake="brake: 2 of 3 nodes vanished")
    )
    way = "metastack node fence n1 --yes --reason"
    for message in ((await see(rig)).message, await _too_late(rig)):
        assert "brake: 2 of 3 nodes vanished" in (message or "")
        assert way in (message or "")
    status = cluster_view(await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING)))
    assert "start a node, or run `metastack node fence NODE --yes --reason" in status.summary
    await vms.delete_vm(rig.cluster, request(), HELLO)
    assert way in ((await see(rig)).message or "")


async def test_the_brake_is_told_once_in_one_output(rig: Rig) -> None:
    """Two of three nodes are lost, with two VMs: status, doctor and explain have its words once."""
    words = "brake: 2 of 3 nodes vanished within 60 s; nothing is fenced until one returns"
    await make(rig)
    other = VmId("default", "other")
    await vms.create_vm(rig.cluster, request(), NewVm(vm=other, image="tiny"))
    await rig.claim("n1", await rig.node("n1"), phase=None)
    await rig.claim("n2", await rig.node("n2"), vm=other, phase=None)
    await rig.node("n3")
    entry = await rig.store.get(rig.keys.node_alive("n3"))
    assert entry is not None
    await rig.put(
        rig.keys.node_alive("n3"), msgspec.structs.replace(decode(NodeAlive, entry.value), brake=words)
    )
    await rig.lose("n1")
    await rig.lose("n2")
    world = await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING))
    told = "\n".join(cluster_view(world).problems)
    assert (told.count("nothing is fenced"), told.count("node fence")) == (1, 1), told
    assert "vm default/hello is claimed: node n1 is lost; the brake delays its fence" in told
    assert "node n2 is lost: its lease expired; not fenced; the brake delays its fence" in told
    found = examine(await collect(rig.cluster, "", datetime.now(UTC)))
    told = "\n".join(f"{one.object} {one.meaning} {one.command}" for one in found)
    assert told.count("nothing is fenced") == 1, told
    explained = await explain_vm(rig.cluster, HELLO)
    told = "\n".join([explained.summary, *(text for node in explained.nodes for text in node.reasons)])
    assert (told.count("nothing is fenced"), told.count("node fence")) == (1, 1), told
    await vms.delete_vm(rig.cluster, request(), HELLO)
    world = await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING))
    assert "\n".join(cluster_view(world).problems).count("nothing is fenced") == 1


async def _too_late(rig: Rig) -> str:
    await vms.stop_vm(rig.cluster, request(), HELLO)
    with pytest.raises(Problem) as late:
        await wait_vm(rig.cluster, HELLO, Goal.STOPPED, 0.3)
    await vms.start_vm(rig.cluster, request(), HELLO)
    assert "--force" not in late.value.hint, "no guest to force"
    return late.value.message


async def test_a_fenced_nodes_vm_says_why_nobody_takes_it(rig: Rig) -> None:
    await make(rig, memory_mib=2048)
    session = await rig.node("n1")
    await rig.claim("n1", session, phase=None)
    await rig.lose("n1")
    await rig.put(rig.keys.fence("n1"), Fence(through=session + 100))
    await rig.node("n2", memory_mib=2048)
    message = (await see(rig)).message or ""
    assert "n1 is lost and fenced: no node fits" in message
    assert "n2: needs 2048 MiB of memory, 1024 of 1024 are free" in message
    shown = await look_at_vm(rig.cluster, HELLO)
    assert shown is not None
    assert shown.message == message
    await rig.node("n3")
    assert (await see(rig)).message == "node n1 is lost and fenced: n3 is to claim it"
    await vms.stop_vm(rig.cluster, request(), HELLO)
    assert (await see(rig)).message == "node n1 is lost and fenced: another node releases the VM"


async def test_a_fine_cluster_is_fine(rig: Rig) -> None:
    await make(rig)
    await rig.claim("n1", await rig.node("n1"))
    status = cluster_view(await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING)))
    assert status.ok, status
    assert status.summary == "ok: 1 of 1 nodes ready, 1 of 1 VMs running"


async def test_broken_records_break_one_vm_only(rig: Rig) -> None:
    await make(rig)
    await rig.claim("n1", await rig.node("n1"))
    bad = VmId("default", "bad")
    for key, raw in (
        (rig.keys.vm_spec(bad), b'{"v":7}'),
        (rig.keys.claim(VmId("default", "worse")), b"\x00"),
    ):
        await rig.write(Put(key, raw))
    world = await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING))
    views = {view.name: view for view in vm_views(world)}
    assert views["bad"].broken
    assert views["bad"].phase is None
    assert "newer" in (views["bad"].message or "")
    assert views["worse"].broken
    assert views["hello"].phase == "running"
    status = cluster_view(world)
    assert any("default/bad" in problem for problem in status.problems)
    await rig.write(Put(rig.keys.vm_status(HELLO), b"{"))
    view = await see(rig)
    assert view.broken
    assert view.node == "n1", "what can be read is still said"
    await rig.write(Put(rig.keys.node_alive("n1"), b"{"))
    [node] = node_infos(await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING)))
    assert node.broken


async def test_a_reused_name_waits_for_the_old_vm(rig: Rig) -> None:
    await make(rig)
    await rig.claim("n1", await rig.node("n1"))
    await vms.delete_vm(rig.cluster, request(), HELLO)
    gone = await see(rig)
    assert (gone.phase, gone.deleted, gone.node) == ("stopping", True, "n1")
    await make(rig)
    view = await see(rig)
    assert view.phase == "pending"
    assert "earlier VM of this name" in (view.message or "")


# ---------------------------------------------------------------------------------------------------------


async def problem(awaitable: Any, code: Code, says: str) -> Problem:
    with pytest.raises(Problem) as caught:
        await awaitable
    assert caught.value.code is code, caught.value
    assert says in f"{caught.value} {caught.value.hint}"
    return caught.value


async def test_wait_until_running(rig: Rig) -> None:
    await make(rig)
    spec = await rig.spec()
    told: list[str | None] = []
    async with asyncio.TaskGroup() as group:
        seen_pending = asyncio.Event()

        def progress(view: VmView) -> None:
            told.append(view.phase)
            seen_pending.set()

        waiting = group.create_task(wait_vm(rig.cluster, HELLO, Goal.RUNNING, 20, spec, progress))
        await seen_pending.wait()
        session = await rig.node("n1")
        await rig.claim("n1", session, phase=None)
        await rig.status("n1", session, Phase.STARTING)
        await rig.status("n1", session, Phase.RUNNING)
    view = waiting.result()
    assert view is not None
    assert (view.phase, view.node) == ("running", "n1")
    assert told[0] == "pending"
    assert told[-1] == "running"


async def test_running_means_the_run_that_was_asked_for(rig: Rig) -> None:
    await make(rig)
    session = await rig.node("n1")
    await rig.claim("n1", session)
    asked = (await vms.restart_vm(rig.cluster, request(), HELLO)).spec
    stale = await problem(
        wait_vm(rig.cluster, HELLO, Goal.RUNNING, 0.3, asked), Code.TIMEOUT, "asked to restart"
    )
    assert stale.object == "vm default/hello"
    await rig.status("n1", session, Phase.RUNNING)
    await wait_vm(rig.cluster, HELLO, Goal.RUNNING, 20, asked)


async def test_an_earlier_runs_outcome_ends_no_wait(rig: Rig) -> None:
    await make(rig)
    session = await rig.node("n1")
    await rig.claim("n1", session, phase=Phase.FAILED)
    spec = (await vms.restart_vm(rig.cluster, request(), HELLO, force=True)).spec
    entry = await rig.store.get(rig.keys.vm_status(HELLO))
    assert entry is not None
    assert decode(VmStatus, entry.value).run < spec.run
    await problem(wait_vm(rig.cluster, HELLO, Goal.RUNNING, 0.3, spec), Code.TIMEOUT, "is failed")
    await rig.status("n1", session, Phase.RUNNING)
    await wait_vm(rig.cluster, HELLO, Goal.RUNNING, 20, spec)


async def test_wait_times_out_saying_why(rig: Rig) -> None:
    await make(rig, memory_mib=65536)
    await rig.node("n1")
    found = await problem(wait_vm(rig.cluster, HELLO, Goal.RUNNING, 2.5), Code.TIMEOUT, "n1: needs 65536 MiB")
    assert "is pending after 2.5 s, not running" in found.message
    late = wait_vm(rig.cluster, HELLO, Goal.RUNNING, 1.2, of_s=8)
    await problem(late, Code.TIMEOUT, "is pending, not running within --timeout 8 s")
    assert "vm explain" in found.hint


async def test_wait_gives_up_when_it_is_hopeless(rig: Rig) -> None:
    await make(rig)
    session = await rig.node("n1")
    await rig.claim("n1", session)
    spec = await rig.spec()
    await rig.status("n1", session, Phase.FAILED, message="no bridge br7")
    await problem(wait_vm(rig.cluster, HELLO, Goal.RUNNING, 20), Code.FAILED, "no bridge br7")
    await rig.release()
    await rig.halt()
    await problem(wait_vm(rig.cluster, HELLO, Goal.RUNNING, 20), Code.FAILED, "vm start")
    await vms.delete_vm(rig.cluster, request(), HELLO)
    await problem(wait_vm(rig.cluster, HELLO, Goal.RUNNING, 20, spec), Code.CONFLICT, "deleted meanwhile")
    await problem(wait_vm(rig.cluster, HELLO, Goal.RUNNING, 20), Code.NOT_FOUND, "does not exist")
    await make(rig)
    await problem(wait_vm(rig.cluster, HELLO, Goal.STOPPED, 20, spec), Code.CONFLICT, "created again")


async def test_a_crashing_guest_gets_a_few_chances(rig: Rig) -> None:
    await make(rig)
    session = await rig.node("n1")
    await rig.claim("n1", session)
    told: asyncio.Queue[str | None] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        await rig.status("n1", session, Phase.FAILED, crashes=1, retry_at="2026-01-01T00:00:00Z", message="1")
        waiting = group.create_task(
            wait_vm(rig.cluster, HELLO, Goal.RUNNING, 20, None, lambda view: told.put_nowait(view.message))
        )
        assert await told.get() == "1"
        await rig.status("n1", session, Phase.FAILED, crashes=2, retry_at="2026-01-01T00:00:00Z", message="2")
        assert await told.get() == "2"
        await rig.status("n1", session, Phase.RUNNING)
    view = waiting.result()
    assert view is not None
    assert view.phase == "running"


async def test_wait_until_stopped_and_deleted(rig: Rig) -> None:
    await make(rig)
    session = await rig.node("n1")
    await rig.claim("n1", session)
    spec = (await vms.stop_vm(rig.cluster, request(), HELLO)).spec
    await problem(wait_vm(rig.cluster, HELLO, Goal.STOPPED, 0.3, spec), Code.TIMEOUT, "--force")
    await rig.release()
    await wait_vm(rig.cluster, HELLO, Goal.STOPPED, 20, spec)
    deleted = await vms.delete_vm(rig.cluster, request(), HELLO)
    assert deleted is not None
    await problem(
        wait_vm(rig.cluster, HELLO, Goal.DELETED, 0.3, deleted), Code.TIMEOUT, "the deletion is not complete"
    )
    await make(rig)  # another VM of the same name is not what is waited for
    async with asyncio.TaskGroup() as group:
        group.create_task(wait_vm(rig.cluster, HELLO, Goal.DELETED, 20, deleted))
        await rig.release(volume_uuid=deleted.volume_uuid)
    await vms.delete_vm(rig.cluster, request(), HELLO)
    assert await wait_vm(rig.cluster, HELLO, Goal.DELETED, 20) is None


async def test_follow_sees_every_change_once_it_is_there(rig: Rig) -> None:
    await make(rig)
    async with asyncio.timeout(20), follow(rig.cluster, rig.keys.prefixes(EVERYTHING)) as follower:
        assert len(vm_views(follower.world)) == 1
        session = await rig.node("n1")
        await rig.claim("n1", session)
        while (view := vm_views(follower.world)[0]).phase != "running":
            await follower.changed()
        assert view.node == "n1"
        await rig.write(Delete(rig.keys.vm_spec(HELLO)))
        while not vm_views(follower.world)[0].deleted:
            await follower.changed()


async def test_tickets_are_bound_and_leased(rig: Rig) -> None:
    await make(rig)
    await problem(create_ticket(rig.cluster, request(), HELLO), Code.CONFLICT, "no node runs it")
    await rig.claim("n1", await rig.node("n1"))
    opening = await create_ticket(rig.cluster, request(), HELLO)
    assert (opening.node, opening.address) == ("n1", "127.0.0.1:1")
    entry = await rig.store.get(rig.keys.ticket(opening.ticket))
    assert entry is not None
    assert entry.lease, "it dies by itself"
    assert opening.ticket not in entry.key and opening.ticket.encode() not in entry.value, "only its hash"
    ticket = decode(Ticket, entry.value)
    assert (ticket.vm, ticket.uuid, ticket.node) == ("hello", (await rig.spec()).uuid, "n1")
    assert (await create_ticket(rig.cluster, request(), HELLO)).ticket != opening.ticket
    await rig.lose("n1")
    await problem(create_ticket(rig.cluster, request(), HELLO), Code.CONFLICT, "lost")


async def test_a_console_view_names_its_new_user(rig: Rig) -> None:
    await make(rig)
    await rig.claim("n1", await rig.node("n1"))
    first = await create_ticket(rig.cluster, request(), HELLO)
    assert await opened_after(rig.cluster, HELLO, first) == ""
    second = await create_ticket(rig.cluster, msgspec.structs.replace(request(), by="ada@desk"), HELLO)
    assert await opened_after(rig.cluster, HELLO, first) == "ada@desk"
    assert await opened_after(rig.cluster, HELLO, second) == ""


async def test_the_claims_epoch_is_a_number(rig: Rig) -> None:
    await make(rig)
    await rig.claim("n1", await rig.node("n1"))
    entry = await rig.store.get(rig.keys.claim(HELLO))
    assert entry is not None
    assert decode(Claim, entry.value).epoch == 0, "stored as this put's own revision"
    assert (await see(rig)).epoch == entry.mod_revision


async def test_brake_follows_the_configuration(rig: Rig) -> None:
    for name in ("n1", "n2", "n3"):
        await rig.node(name)
    await rig.lose("n1")
    status = cluster_view(await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING)))
    assert (status.brake_engaged, status.nodes_lost) == (False, ["n1"])
    await rig.put(rig.keys.cluster(), ClusterConfig(brake_percent=30))
    assert cluster_view(await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING))).brake_engaged
