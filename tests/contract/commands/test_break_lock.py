"""Having a lock broken, on both stores; the test plays the agent that holds the claim."""

from __future__ import annotations

import asyncio

import pytest
from commands_rig import HELLO, Rig, request
from msgspec.structs import replace

from metastack.commands.problem import Code, Problem
from metastack.commands.vm.break_lock import LockView, break_lock, check_break_lock, check_reason, wait_answer
from metastack.commands.vm.change import NewVm, create_vm
from metastack.commands.vm.explain import explain_vm
from metastack.commands.vm.wait import Goal, wait_vm
from metastack.core.model import BreakLock, Claim, Event, Phase, VmStatus
from metastack.core.protocol import broken_locks as locks
from metastack.core.protocol.guards import OwnSession
from metastack.core.state.cluster_state import seen
from metastack.core.transaction import Lost

CLIENT = "10.0.0.9:0/4711"


async def _waits(rig: Rig, client: str = CLIENT) -> int:
    """A VM whose holder waits for that client; its session."""
    await rig.image()
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    session = await rig.node("n1")
    await rig.claim("n1", session, phase=Phase.WAITING)
    entry = await rig.store.get(rig.keys.vm_status(HELLO))
    assert entry is not None
    await rig.put(rig.keys.vm_status(HELLO), replace(seen(VmStatus, entry).ok, disk_held_by=client))
    return session


async def test_explain_and_wait_name_the_blocking_client_and_the_remedy(rig: Rig) -> None:
    """At once, and not only when the wait has become a failure."""
    session = await _waits(rig)
    said = f"its disk is locked by hand by {CLIENT}"
    await rig.status("n1", session, Phase.WAITING, message=said, disk_held_by=CLIENT)
    summary = (await explain_vm(rig.cluster, HELLO)).summary
    assert summary.startswith(f"is on n1, waiting: {said}; close it there")
    assert "metastack vm break-lock default/hello --yes --reason WHY" in summary
    with pytest.raises(Problem, match="is waiting") as late:
        await wait_vm(rig.cluster, HELLO, Goal.RUNNING, 0.1)
    assert "metastack vm break-lock default/hello --yes --reason WHY" in late.value.hint
    process = "qemu-nbd (process 7)"
    await rig.status(
        "n1", session, Phase.WAITING, message=f"its disk is open by {process}", disk_held_by=process
    )
    assert "break-lock" not in (await explain_vm(rig.cluster, HELLO)).summary
    await rig.status("n1", session, Phase.FAILED, message="its image is bad")
    assert "is on n1, failed: its image is bad" in (await explain_vm(rig.cluster, HELLO)).summary


async def _answer(rig: Rig, session: int, what: str, message: str) -> bool:
    """What the holder does; whether its transaction held."""
    order, claim = await rig.store.get(rig.keys.break_lock(HELLO)), await rig.store.get(rig.keys.claim(HELLO))
    assert order is not None
    assert claim is not None
    found, held = seen(BreakLock, order), seen(Claim, claim)
    event = Event(at="t", by="node/n1", what=what, object="vm default/hello", message=message)
    key = locks.answered_at(rig.keys, found.ok)
    me = OwnSession(node="n1", session=session, lease=0)
    outcome = await rig.store.commit(locks.answer(rig.keys, me, HELLO, held, found, key, event))
    return not isinstance(outcome, Lost)


async def test_the_holder_is_asked_and_answers(rig: Rig) -> None:
    session = await _waits(rig)
    assert await check_break_lock(rig.cluster, HELLO) == CLIENT
    order, view = await break_lock(rig.cluster, request("the host is gone"), HELLO)
    assert (order.client, order.reason) == (CLIENT, "the host is gone")
    assert view == LockView(project="default", name="hello", node="n1", client=CLIENT, result="asked")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(wait_answer(rig.cluster, HELLO, order, view, 20))
        assert await _answer(rig, session, "vm.break-lock.done", "it is shut out")
    assert (waiting.result().result, waiting.result().message) == ("done", "it is shut out")
    assert await rig.store.get(rig.keys.break_lock(HELLO)) is None
    assert [event.what for event in await rig.events()][-2:] == ["vm.break-lock", "vm.break-lock.done"]


async def test_a_refusal_is_the_commands_error(rig: Rig) -> None:
    session = await _waits(rig)
    order, view = await break_lock(rig.cluster, request("why not"), HELLO)
    assert await _answer(rig, session, "vm.break-lock.refused", f"{CLIENT} is a client of n2, which is alive")
    with pytest.raises(Problem, match="is a client of n2, which is alive") as refused:
        await wait_answer(rig.cluster, HELLO, order, view, 20)
    assert refused.value.code is Code.CONFLICT


async def test_nobody_answers(rig: Rig) -> None:
    await _waits(rig)
    order, view = await break_lock(rig.cluster, request("why not"), HELLO)
    with pytest.raises(Problem, match="n1 has not answered within") as late:
        await wait_answer(rig.cluster, HELLO, order, view, 0.2)
    assert late.value.code is Code.TIMEOUT


async def test_what_is_not_asked(rig: Rig) -> None:
    with pytest.raises(Problem, match="does not exist"):
        await check_break_lock(rig.cluster, HELLO)
    with pytest.raises(Problem, match="needs a reason"):
        check_reason(HELLO, "")
    session = await _waits(rig, client="")
    with pytest.raises(Problem, match="no other client is known to have its disk open"):
        await break_lock(rig.cluster, request("why"), HELLO)
    assert await rig.store.get(rig.keys.break_lock(HELLO)) is None
    await rig.lose("n1")
    with pytest.raises(Problem, match="its node n1 is lost"):
        await break_lock(rig.cluster, request("why"), HELLO)
    assert session


async def test_a_claim_that_moved_is_not_answered_for(rig: Rig) -> None:
    session = await _waits(rig)
    await break_lock(rig.cluster, request("why"), HELLO)
    order, claim = await rig.store.get(rig.keys.break_lock(HELLO)), await rig.store.get(rig.keys.claim(HELLO))
    assert order is not None
    assert claim is not None
    found, held = seen(BreakLock, order), seen(Claim, claim)
    await rig.claim("n1", session)  # it moves
    event = Event(at="t", by="node/n1", what="vm.break-lock.done", object="vm default/hello")
    me = OwnSession(node="n1", session=session, lease=0)
    change = locks.answer(rig.keys, me, HELLO, held, found, locks.answered_at(rig.keys, found.ok), event)
    assert isinstance(await rig.store.commit(change), Lost)
