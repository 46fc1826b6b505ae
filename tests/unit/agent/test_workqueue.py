"""The reconcile queue: each key once, one worker a key, one waker a worker."""

import asyncio

import uvloop

from metastack.agent.reconcile.workqueue import WorkQueue


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_key_added_during_work_comes_again() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 1
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_one_key_wakes_one_worker() -> None:
    queue: WorkQueue[str] = WorkQueue()
    got: list[str] = []

    async def worker() -> None:
        got.append(await queue.get())

    tasks = [asyncio.ensure_future(worker()) for _ in range(3)]
    await _settle()
    queue.add("a")
    await _settle()
    assert got == ["a"]
    assert len(queue._idle) == 2
    queue.add("b")
    queue.add("c")
    await asyncio.gather(*tasks)
    assert sorted(got) == ["a", "b", "c"]


async def test_a_worker_cancelled_as_it_wakes_passes_the_key_on() -> None:
    queue: WorkQueue[str] = WorkQueue()
    first = asyncio.ensure_future(queue.get())
    second = asyncio.ensure_future(queue.get())
    await _settle()
    queue.add("a")
    first.cancel()
    await _settle()
    assert first.cancelled()
    assert second.done() and second.result() == "a"


def test_a_key_due_within_a_tick_is_not_polled() -> None:
    async def looks(queue: WorkQueue[str], due_s: float) -> int:
        count, loop = 0, asyncio.get_running_loop()
        while loop.time() < due_s:
            queue.add_at("a", due_s)
            queue.done(await queue.get())
            count += 1
        return count

    async def story() -> list[int]:
        queue: WorkQueue[str] = WorkQueue()
        # Sums of floats just behind a tick, as appointments are.
        time = asyncio.get_running_loop().time
        return [await looks(queue, time() + 0.003 + 1e-9) for _ in range(40)]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(story())
    assert max(found) <= 2, found


def test_a_nearly_due_timer_fires_on_the_agents_loop() -> None:
    """uvloop's handle of less than half a millisecond is no timer: asking it for its time ended the agent."""

    async def story() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add_after("a", 0.0001)
        queue.add_after("a", 0.0002)
        assert await asyncio.wait_for(queue.get(), 5) == "a"
        queue.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())
