"""A guest that writes elsewhere than on its disk is not ended by a command that does not say so."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
from commands_rig import HELLO, Rig, request

from metastack.commands.problem import Code, Problem
from metastack.commands.vm.change import NewVm, create_vm, delete_vm, restart_vm, stop_vm
from metastack.commands.vm.look import look_at_vm
from metastack.core.model import Phase, Power


async def drifted(rig: Rig) -> None:
    await rig.image()
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    session = await rig.node("n1")
    await rig.claim("n1", session)
    words = ("writes to /o instead of its disk vms/vm-1",)
    await rig.status("n1", session, Phase.RUNNING, drift=words, elsewhere="/o")


async def refused(asked: Awaitable[object]) -> None:
    with pytest.raises(Problem, match="writes to /o on n1 instead of its disk") as raised:
        await asked
    assert raised.value.code is Code.CONFLICT
    assert "blockcommit" in raised.value.hint and "--discard-drift" in raised.value.hint


async def test_it_is_refused_and_done_when_it_is_given_up(rig: Rig) -> None:
    await drifted(rig)
    view = await look_at_vm(rig.cluster, HELLO)
    assert view is not None and view.drift == ["writes to /o instead of its disk vms/vm-1"]
    before = await rig.spec()
    await refused(stop_vm(rig.cluster, request(), HELLO))
    await refused(stop_vm(rig.cluster, request(), HELLO, force=True))
    await refused(restart_vm(rig.cluster, request(), HELLO))
    await refused(delete_vm(rig.cluster, request(), HELLO))
    assert await rig.spec() == before
    await restart_vm(rig.cluster, request(), HELLO, discard_drift=True)
    after = await rig.spec()
    assert (after.run, after.force) == (before.run + 1, True), "its node lets go of what is forced only"
    await stop_vm(rig.cluster, request(), HELLO, discard_drift=True)
    assert ((await rig.spec()).power, (await rig.spec()).force) == (Power.OFF, True)
    await delete_vm(rig.cluster, request(), HELLO, discard_drift=True)
    assert await rig.store.get(rig.keys.vm_spec(HELLO)) is None
