"""Many VMs at once: names, transactions, and what is left when one of them fails; on both stores."""

from __future__ import annotations

from typing import Any, cast

import pytest
from commands_rig import Racing, Rig, request
from places_rig import new, refused, three, vm

from metastack.commands.problem import Code, Problem
from metastack.commands.reading import read_engine_state
from metastack.commands.request import VMS_AT_ONCE, Cluster
from metastack.commands.vm.create import create_vm, create_vms, numbered
from metastack.core.transaction import MAX_OPERATIONS, Transaction


@pytest.mark.parametrize(
    ("template", "count", "first", "wanted"),
    [
        ("web-{n}", 3, 1, ["web-1", "web-2", "web-3"]),
        ("{n:03}-web", 2, 99, ["099-web", "100-web"]),
        ("p/web-{n:2}", 1, 0, ["p/web-00"]),
    ],
)
def test_names_from_a_template(template: str, count: int, first: int, wanted: list[str]) -> None:
    assert numbered(template, count, first) == wanted


@pytest.mark.parametrize(
    ("template", "count", "first"),
    [("web", 1, 1), ("{n}{n}", 1, 1), ("{n}{x}", 1, 1), ("{n!r}", 1, 1), ("w{n}", 0, 1), ("w{n}", 1001, 1),
     ("w{n}", 1, -1)],
)  # fmt: skip
def test_templates_that_are_none(template: str, count: int, first: int) -> None:
    with pytest.raises(Problem) as found:
        numbered(template, count, first)
    assert found.value.code is Code.USAGE


class Counting(Racing):
    """Counts what each transaction carries."""

    def __init__(self, store: object) -> None:
        super().__init__(store, None, 0)
        self.sizes: list[tuple[int, int]] = []

    async def commit(self, change: Transaction) -> object:
        self.sizes.append((len(change.guards), len(change.effects)))
        return await super().commit(change)


async def test_forty_at_once_are_three_transactions(rig: Rig) -> None:
    await three(rig)
    counting = Counting(rig.store)
    cluster = Cluster(cast(Any, counting), rig.keys)
    one = request("many")
    made = await create_vms(cluster, one, [new(name) for name in numbered("web-{n}", 40)])
    assert [spec.name for spec in made.specs] == numbered("web-{n}", 40) and made.problem is None
    assert len({spec.uuid for spec in made.specs} | {spec.volume_uuid for spec in made.specs}) == 80
    assert len(counting.sizes) == 3
    assert all(max(size) < MAX_OPERATIONS for size in counting.sizes)
    assert max(guards for guards, _ in counting.sizes) == VMS_AT_ONCE + 2, "each name, the image, the event"
    events = [event for event in await rig.events() if event.request_id == one.request_id]
    own = [event for event in events if event.what == "vm.create"]
    assert {event.object for event in own} == {f"vm default/{name}" for name in numbered("web-{n}", 40)}
    assert len([event for event in events if event.what == "vm.create_many"]) == 3
    [first] = await rig.history(vm("web-1"))
    assert first == made.specs[0]


async def test_one_taken_name_and_nothing_is_written(rig: Rig) -> None:
    await three(rig)
    await create_vm(rig.cluster, request(), new("web-39"))
    problem = await refused(
        create_vms(rig.cluster, request(), [new(name) for name in numbered("web-{n}", 40)]),
        Code.CONFLICT, "default/web-39", "exists already",
    )  # fmt: skip
    assert "more" not in problem.message
    world = await read_engine_state(rig.cluster)
    assert [found.name for found, _ in world.specs()] == ["web-39"]


async def test_a_failing_part_keeps_the_earlier_parts(rig: Rig) -> None:
    await three(rig)

    async def rival() -> None:
        if racing.times == 0:  # before the second transaction
            await create_vm(rig.cluster, request(), new("web-20"))

    racing = Racing(rig.store, rival, 2)
    made = await create_vms(
        Cluster(cast(Any, racing), rig.keys), request(), [new(name) for name in numbered("web-{n}", 32)]
    )
    assert [spec.name for spec in made.specs] == numbered("web-{n}", 16)
    assert made.problem is not None and "web-20: exists already" in str(made.problem)


async def test_a_lost_reply_does_not_write_many_twice(rig: Rig) -> None:
    from metastack.ports import UnknownOutcome

    await three(rig)

    class Silent(Racing):
        async def commit(self, change: Any) -> Any:
            outcome = await rig.store.commit(change)
            if self.times:
                self.times -= 1
                raise UnknownOutcome("no reply")
            return outcome

    silent = Cluster(cast(Any, Silent(rig.store, None, 2)), rig.keys)
    made = await create_vms(silent, request(), [new(name) for name in numbered("w{n}", 20)])
    assert made.problem is None and len(made.specs) == 20
    assert (await rig.spec(vm("w1"))).uuid == made.specs[0].uuid
    assert (await rig.spec(vm("w20"))).uuid == made.specs[19].uuid
    assert len([event for event in await rig.events() if event.what == "vm.create_many"]) == 2
