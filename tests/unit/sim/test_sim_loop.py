"""The virtual loop: time that jumps, and processes that can be stopped and killed."""

from __future__ import annotations

import asyncio

import pytest

from metastack.lab.sim.engine.loop import Process, Stuck, VirtualLoop, run


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


def test_time_jumps() -> None:
    async def story() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert run(story()) == pytest.approx(3600, abs=0.01)


def test_waiting_for_nothing_is_said() -> None:
    async def story() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stuck):
        run(story())


def test_a_stopped_process_takes_no_step_and_everything_is_late() -> None:
    seen: list[tuple[str, float]] = []

    async def ticks(name: str) -> None:
        for _ in range(4):
            await asyncio.sleep(1)
            seen.append((name, round(_loop().time(), 2)))

    async def story() -> None:
        loop, one, two = _loop(), Process("one"), Process("two")
        tasks = [loop.start_process(p, ticks(p.name)) for p in (one, two)]
        await asyncio.sleep(1.5)
        loop.freeze(one)
        await asyncio.sleep(10)
        loop.thaw(one)
        await asyncio.gather(*tasks)

    run(story())
    assert [at for name, at in seen if name == "two"] == [1, 2, 3, 4]
    assert [at for name, at in seen if name == "one"] == [1, 11.5, 12.5, 13.5]


def test_a_killed_process_does_not_even_clean_up() -> None:
    cleaned: list[str] = []

    async def stubborn(process: Process) -> None:
        try:
            await asyncio.sleep(5)
        finally:
            cleaned.append("dead" if process.dead else "alive")

    async def story() -> None:
        loop, process = _loop(), Process("p")
        loop.start_process(process, stubborn(process))
        await asyncio.sleep(1)
        loop.kill(process)
        await asyncio.sleep(100)
        assert not cleaned
        await loop.bury([process])

    run(story())
    assert cleaned == ["dead"], "only at the burial, when nothing of it counts any more"


def test_a_child_task_belongs_to_its_parents_process() -> None:
    async def story() -> list[float]:
        loop, process, at = _loop(), Process("p"), []

        async def child() -> None:
            await asyncio.sleep(2)
            at.append(round(loop.time(), 2))

        async def parent() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())

        task = loop.start_process(process, parent())
        await asyncio.sleep(1)
        loop.freeze(process)
        await asyncio.sleep(5)
        loop.thaw(process)
        await task
        return at

    assert run(story()) == [6]


def test_threads_are_refused() -> None:
    async def story() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="thread"):
        run(story())
