"""VM commands against both stores: what is written, with what, and what is refused before that."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from commands_rig import HELLO, Racing, Rig, request

from metastack.commands.cluster.projects import create_project
from metastack.commands.problem import Code, Problem
from metastack.commands.request import Cluster
from metastack.commands.vm import change as vms
from metastack.commands.vm.change import NewVm
from metastack.core.model import ClusterConfig, Ha, Image, ImageState, Power, VmId, token_revision
from metastack.core.state.keys import Kind
from metastack.core.transaction import Put


def new(**more: Any) -> NewVm:
    return NewVm(**{"vm": HELLO, "image": "tiny", **more})


async def refused(awaitable: Any, code: Code, says: str) -> Problem:
    with pytest.raises(Problem) as caught:
        await awaitable
    assert caught.value.code is code, caught.value
    assert says in f"{caught.value} {caught.value.hint}"
    return caught.value


async def test_create_writes_spec_history_and_event_at_once(rig: Rig) -> None:
    await rig.image()
    await rig.put(rig.keys.cluster(), ClusterConfig(default_network="br0"))
    made = await vms.create_vm(rig.cluster, request("because"), new(labels={"team": "web"}, memory_mib=256))
    spec = await rig.spec()
    assert made.spec == spec
    assert (spec.power, spec.run, spec.disk_bytes, spec.image_uuid) == (Power.ON, 1, 36 << 20, "uuid-tiny")
    assert (spec.by, spec.reason, spec.labels) == ("tester@here", "because", {"team": "web"})
    assert len(spec.nics) == 1
    assert spec.nics[0].bridge == "br0"
    first = int(spec.nics[0].mac[:2], 16)
    assert first & 3 == 2, "a locally administered unicast address"
    assert await rig.history() == [spec]
    [event] = await rig.events()
    assert (event.what, event.object, event.by, event.reason) == (
        "vm.create",
        "vm default/hello",
        "tester@here",
        "because",
    )
    assert event.request_id == spec.request_id
    entries = [await rig.store.get(rig.keys.vm_spec(HELLO))]
    entries += (await rig.store.list(*rig.keys.prefixes(Kind))).entries[-2:]
    assert len({entry.mod_revision for entry in entries if entry}) == 1, "one transaction"


async def test_create_refuses(rig: Rig) -> None:
    await refused(vms.create_vm(rig.cluster, request(), new()), Code.NOT_FOUND, "image tiny")
    await rig.image()
    for wrong, says in (
        ({"cpus": 0}, "cpus"),
        ({"memory_mib": 1}, "memory"),
        ({"disk_bytes": 1 << 20}, "smaller than image tiny"),
        ({"disk_bytes": (36 << 20) + 1}, "sectors"),
        ({"disk_bytes": 1 << 60}, "out of range"),
        ({"image": "../etc"}, "not a valid name"),
        ({"network": "a/b"}, "bridge"),
        ({"node": "N!"}, "not a valid name"),
        ({"labels": {f"k{n}": "" for n in range(65)}}, "too many"),
    ):
        await refused(vms.create_vm(rig.cluster, request(), new(**wrong)), Code.USAGE, says)
    await refused(vms.create_vm(rig.cluster, request("x\ny"), new()), Code.USAGE, "one line")
    deaf = new(network="none", ha=Ha(ready_port=80))
    await refused(vms.create_vm(rig.cluster, request(), deaf), Code.USAGE, "80 never answers without a network")
    await refused(vms.create_vm(rig.cluster, request(), new(node="n9")), Code.NOT_FOUND, "node n9")
    other = new(vm=VmId("web", "a"))
    await refused(vms.create_vm(rig.cluster, request(), other), Code.NOT_FOUND, "project web")
    assert await rig.events() == [], "nothing was written"
    await create_project(rig.cluster, request(), "web")
    await vms.create_vm(rig.cluster, request(), other)
    await vms.create_vm(rig.cluster, request(), new())
    await refused(vms.create_vm(rig.cluster, request(), new()), Code.CONFLICT, "exists already")


@pytest.mark.parametrize("state", [ImageState.IMPORTING, ImageState.DELETING])
async def test_create_wants_a_ready_image(rig: Rig, state: ImageState) -> None:
    await rig.put(rig.keys.image("tiny"), Image(name="tiny", uuid="u", state=state))
    await refused(vms.create_vm(rig.cluster, request(), new()), Code.CONFLICT, state.value)


async def test_create_loses_to_a_delete_of_its_image(rig: Rig) -> None:
    """The image's revision is a guard: one that is marked meanwhile gets no user."""
    image = await rig.image()

    async def mark() -> None:
        await rig.put(rig.keys.image("tiny"), Image(name="tiny", uuid=image.uuid, state=ImageState.DELETING))

    racing = Cluster(cast(Any, Racing(rig.store, mark)), rig.keys)
    await refused(vms.create_vm(racing, request(), new()), Code.CONFLICT, "deleting")
    assert await rig.store.get(rig.keys.vm_spec(HELLO)) is None


async def test_twenty_create_one_name_once(rig: Rig) -> None:
    await rig.image()
    tries = [vms.create_vm(rig.cluster, request(), new()) for _ in range(20)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    made = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len(made) == 1, answers
    assert {answer.code for answer in answers if isinstance(answer, Problem)} == {Code.CONFLICT}
    assert len(await rig.events()) == 1


async def test_labels_of_many_hands_all_stay(rig: Rig) -> None:
    await rig.image()
    await vms.create_vm(rig.cluster, request(), new())
    await asyncio.gather(
        *(vms.label_vm(rig.cluster, request(), HELLO, {f"k{n}": str(n)}, set()) for n in range(5))
    )
    assert (await rig.spec()).labels == {f"k{n}": str(n) for n in range(5)}
    await vms.label_vm(rig.cluster, request(), HELLO, {"new": "1"}, {"k0", "k1"})
    assert (await rig.spec()).labels == {"k2": "2", "k3": "3", "k4": "4", "new": "1"}
    assert not (await vms.label_vm(rig.cluster, request(), HELLO, {"new": "1"}, {"k0"})).changed


async def test_an_edit_that_always_loses_is_a_conflict(rig: Rig) -> None:
    await rig.image()
    await vms.create_vm(rig.cluster, request(), new())

    async def rival() -> None:
        await rig.put(rig.keys.vm_spec(HELLO), await rig.spec())

    racing = Cluster(cast(Any, Racing(rig.store, rival, 100)), rig.keys)
    await refused(vms.stop_vm(racing, request(), HELLO), Code.CONFLICT, "changed by others")
    assert (await rig.spec()).power is Power.ON


async def test_an_edit_never_hits_a_later_vm(rig: Rig) -> None:
    """Deleted and made again between look and commit: the new one is another VM."""
    await rig.image()
    await vms.create_vm(rig.cluster, request(), new())

    async def again() -> None:
        await vms.delete_vm(rig.cluster, request(), HELLO)
        await vms.create_vm(rig.cluster, request(), new())

    racing = Cluster(cast(Any, Racing(rig.store, again)), rig.keys)
    await refused(vms.stop_vm(racing, request(), HELLO), Code.CONFLICT, "created again")
    assert (await rig.spec()).power is Power.ON

    async def gone() -> None:
        await vms.delete_vm(rig.cluster, request(), HELLO)

    racing = Cluster(cast(Any, Racing(rig.store, gone)), rig.keys)
    await refused(vms.stop_vm(racing, request(), HELLO), Code.CONFLICT, "deleted meanwhile")


async def test_power(rig: Rig) -> None:
    await rig.image()
    await vms.create_vm(rig.cluster, request(), new(off=True))
    assert (await rig.spec()).power is Power.OFF
    started = await vms.start_vm(rig.cluster, request(), HELLO)
    assert (started.spec.power, started.spec.run) == (Power.ON, 2)
    assert not (await vms.start_vm(rig.cluster, request(), HELLO)).changed, "a running VM is left alone"
    await rig.halt()
    again = await vms.start_vm(rig.cluster, request(), HELLO)
    assert again.spec.run == 3, "a guest that switched itself off: the next run voids the halt"
    assert not (await vms.start_vm(rig.cluster, request(), HELLO)).changed
    stopped = await vms.stop_vm(rig.cluster, request(), HELLO)
    assert (stopped.spec.power, stopped.spec.force) == (Power.OFF, False)
    assert not (await vms.stop_vm(rig.cluster, request(), HELLO)).changed
    assert (await vms.stop_vm(rig.cluster, request(), HELLO, force=True)).spec.force
    restarted = await vms.restart_vm(rig.cluster, request(), HELLO, force=True)
    assert (restarted.spec.power, restarted.spec.run, restarted.spec.force) == (Power.ON, 4, True)


async def test_pause_follows_a_claim_that_moves_meanwhile(rig: Rig) -> None:
    """The claim is a guard: what is paused is the epoch that runs now, not the one that was looked at."""
    await rig.image()
    await vms.create_vm(rig.cluster, request(), new())
    await rig.claim("n1", await rig.node("n1"))
    session = await rig.node("n2")

    async def takeover() -> None:
        await rig.claim("n2", session)

    racing = Cluster(cast(Any, Racing(rig.store, takeover)), rig.keys)
    paused = await vms.pause_vm(racing, request(), HELLO)
    entry = await rig.store.get(rig.keys.claim(HELLO))
    assert entry is not None
    assert token_revision(paused.spec.paused_epoch) == entry.mod_revision


async def test_pause_holds_for_one_epoch(rig: Rig) -> None:
    await rig.image()
    await vms.create_vm(rig.cluster, request(), new())
    await refused(vms.pause_vm(rig.cluster, request(), HELLO), Code.CONFLICT, "does not run")
    session = await rig.node("n1")
    await rig.claim("n1", session)
    entry = await rig.store.get(rig.keys.claim(HELLO))
    assert entry is not None
    paused = await vms.pause_vm(rig.cluster, request(), HELLO)
    assert token_revision(paused.spec.paused_epoch) == entry.mod_revision
    assert not (await vms.pause_vm(rig.cluster, request(), HELLO)).changed
    assert (await vms.resume_vm(rig.cluster, request(), HELLO)).spec.paused_epoch == 0
    assert not (await vms.resume_vm(rig.cluster, request(), HELLO)).changed
    await vms.stop_vm(rig.cluster, request(), HELLO)
    await refused(vms.resume_vm(rig.cluster, request(), HELLO), Code.CONFLICT, "stopped")


async def test_history_is_bounded_and_goes_with_the_vm(rig: Rig) -> None:
    await rig.image()
    await rig.put(rig.keys.cluster(), ClusterConfig(history_versions=3))
    await vms.create_vm(rig.cluster, request(), new())
    for n in range(5):
        await vms.label_vm(rig.cluster, request(f"r{n}"), HELLO, {"n": str(n)}, set())
    assert [spec.reason for spec in await rig.history()] == ["r2", "r3", "r4"]
    spec = await rig.spec()
    assert await vms.delete_vm(rig.cluster, request(), HELLO) == spec
    assert await rig.history() == []
    assert await rig.store.get(rig.keys.vm_spec(HELLO)) is None
    await refused(vms.delete_vm(rig.cluster, request(), HELLO), Code.NOT_FOUND, "default/hello")


async def test_delete_is_for_one_uuid(rig: Rig) -> None:
    await rig.image()
    await vms.create_vm(rig.cluster, request(), new())
    await refused(vms.delete_vm(rig.cluster, request(), HELLO, "another"), Code.CONFLICT, "created again")


@pytest.mark.parametrize("raw", [b"{", b'{"v":99}', b'{"v":1,"project":3}', b"\xff"])
async def test_a_broken_record_is_left_alone(rig: Rig, raw: bytes) -> None:
    await rig.write(Put(rig.keys.vm_spec(HELLO), raw))
    await refused(vms.start_vm(rig.cluster, request(), HELLO), Code.FAILED, "cannot be read")
    entry = await rig.store.get(rig.keys.vm_spec(HELLO))
    assert entry is not None
    assert entry.value == raw
    assert await vms.delete_vm(rig.cluster, request(), HELLO) is None, "the way out"


async def test_a_lost_reply_is_not_a_lost_race(rig: Rig) -> None:
    """The first try was applied although its reply never came: the second look finds the event."""
    from metastack.ports import UnknownOutcome

    await rig.image()

    class Silent(Racing):
        async def commit(self, change: Any) -> Any:
            outcome = await rig.store.commit(change)
            if self.times:
                self.times -= 1
                raise UnknownOutcome("no reply")
            return outcome

    silent = Cluster(cast(Any, Silent(rig.store, None)), rig.keys)
    made = await vms.create_vm(silent, request(), new())
    assert made.spec == await rig.spec()
    assert len(await rig.events()) == 1


async def test_sixty_three_letters(rig: Rig) -> None:
    await rig.image()
    long = "a" * 63
    await vms.create_vm(rig.cluster, request(), new(vm=VmId("default", long)))
    assert (await rig.spec(VmId("default", long))).name == long


async def test_guards_are_not_decoration(rig: Rig) -> None:
    """A spec that changed between look and commit: the edit starts over from the new one."""
    await rig.image()
    await vms.create_vm(rig.cluster, request(), new())

    async def rival() -> None:
        await vms.label_vm(rig.cluster, request(), HELLO, {"rival": "1"}, set())

    racing = Cluster(cast(Any, Racing(rig.store, rival)), rig.keys)
    after = await vms.stop_vm(racing, request(), HELLO)
    assert after.spec.labels == {"rival": "1"}
    assert after.spec == await rig.spec()
