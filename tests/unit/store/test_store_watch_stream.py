"""What a watch makes of a misbehaving etcd: real gRPC, and a server that plays a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from aetcd import rpc
from aetcd.rpc.rpc_pb2_grpc import (
    KVServicer,
    WatchServicer,
    add_KVServicer_to_server,
    add_WatchServicer_to_server,
)

from metastack.core.transaction import Batch
from metastack.ports import Compacted, Denied
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore

SOON_S = 20.0
Script = Callable[[int, int], list[Any]]
"""Number of the stream and the revision that it starts from, to the responses (or what to await between);
then the stream ends."""


class Scripted(WatchServicer):  # type: ignore[misc]
    def __init__(self, script: Script, stay: bool) -> None:
        self._script = script
        self._stay = stay
        self.starts: list[int] = []
        self.questions = 0

    async def Watch(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        create = (await anext(requests)).create_request
        assert create.fragment
        assert create.progress_notify
        self.starts.append(create.start_revision)
        for response in self._script(len(self.starts), create.start_revision):
            if callable(response):
                await response()
            else:
                yield response
        if self._stay:
            async for _ in requests:
                self.questions += 1


class Agreed(KVServicer):  # type: ignore[misc]
    """Answers linearizable reads: what the members agree on."""

    revision = 1000

    async def Range(self, request: Any, context: Any) -> Any:
        assert not request.serializable
        return rpc.RangeResponse(header=header(self.revision))


@asynccontextmanager
async def scripted(
    folder: Path, script: Script, stay: bool = False, agreed: int = 1000
) -> AsyncIterator[tuple[EtcdStore, Scripted]]:
    server = grpc.aio.server()
    servicer = Scripted(script, stay)
    add_WatchServicer_to_server(servicer, server)
    members = Agreed()
    members.revision = agreed
    add_KVServicer_to_server(members, server)
    server.add_insecure_port(f"unix:{folder}/s")
    await server.start()
    store = EtcdStore(StoreSettings(endpoints=(f"unix:{folder}/s",)))
    try:
        yield store, servicer
    finally:
        await store.close()
        await server.stop(None)


def created(revision: int = 1000, cluster: int = 7, **more: Any) -> Any:
    return rpc.WatchResponse(header=header(revision, cluster), created=True, **more)


def header(revision: int, cluster: int = 7) -> Any:
    return rpc.ResponseHeader(revision=revision, cluster_id=cluster)


def says(*revisions: int, head: int = 0, fragment: bool = False) -> Any:
    events = [
        rpc.Event(type=rpc.Event.PUT, kv=rpc.KeyValue(key=b"/k%d" % n, mod_revision=revision))
        for n, revision in enumerate(revisions)
    ]
    return rpc.WatchResponse(header=header(head or max(revisions)), events=events, fragment=fragment)


async def take(watch: AsyncIterator[Batch], count: int) -> list[Batch]:
    async with asyncio.timeout(SOON_S):
        return [await anext(watch) for _ in range(count)]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("w")


async def test_half_of_a_fragmented_response_is_not_delivered(folder: Path) -> None:
    def script(stream: int, start: int) -> list[Any]:
        whole = [says(5, 6, fragment=True), says(6, 7)]
        return [created(), *(whole[:1] if stream == 1 else whole)]

    async with scripted(folder, script) as (store, server):
        (batch,) = await take(store.watch("/", 4), 1)
        assert [e.revision for e in batch.events] == [5, 6, 6, 7]
        assert server.starts == [5, 5]


async def test_whole_events_do_not_wait_for_later_fragments(folder: Path) -> None:
    read, sent, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def half_is_sent() -> None:
        sent.set()
        await go_on.wait()

    def script(stream: int, start: int) -> list[Any]:
        half = [says(6), says(7, 8, fragment=True)]
        return [created(), says(5), read.wait, *half, half_is_sent, says(8, 9), says(10)]

    async with scripted(folder, script, stay=True) as (store, server):
        watch = store.watch("/", 4)
        await take(watch, 1)
        read.set()
        async with asyncio.timeout(SOON_S):
            await sent.wait()
        await asyncio.sleep(0.1)  # both in what the reader finds: taken one by one, this would show nothing
        (whole,) = await take(watch, 1)
        assert (whole.revision, [e.revision for e in whole.events]) == (6, [6])
        go_on.set()
        seen = list[int]()
        while not seen or seen[-1] < 10:
            seen += [e.revision for e in (await take(watch, 1))[0].events]
        assert seen == [7, 8, 8, 9, 10]
        assert server.starts == [5]


async def test_it_resumes_after_the_events_and_not_after_the_header(folder: Path) -> None:
    """A watcher that catches up gets old events under the header of now."""

    def script(stream: int, start: int) -> list[Any]:
        return [created(90), says(start, head=90)]

    async with scripted(folder, script) as (store, server):
        batches = await take(store.watch("/", 4), 3)
        assert [b.revision for b in batches] == [5, 6, 7]
        assert server.starts[:3] == [5, 6, 7]


async def test_an_answer_to_our_question_moves_nothing(folder: Path) -> None:
    """Before etcd 3.4.25 it can overtake events; a note that etcd sends by itself cannot."""
    manual = rpc.WatchResponse(header=header(50), watch_id=-1)
    by_itself = rpc.WatchResponse(header=header(40))

    def script(stream: int, start: int) -> list[Any]:
        return [created(50), manual, by_itself] if stream == 1 else [created(50), says(start)]

    async with scripted(folder, script) as (store, server):
        note, batch = await take(store.watch("/", 4), 2)
        assert (note.revision, note.events) == (40, ())
        assert batch.revision == 41
        assert server.starts[:2] == [5, 41]


async def test_events_that_were_delivered_already_are_not_repeated(folder: Path) -> None:
    def script(stream: int, start: int) -> list[Any]:
        return [created(), says(5, 6), says(5, 6, 7)]

    async with scripted(folder, script) as (store, _):
        first, second = await take(store.watch("/", 4), 2)
        assert [e.revision for e in first.events] == [5, 6]
        assert [e.revision for e in second.events] == [7]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (created(canceled=True, compact_revision=9), Compacted),
        (
            created(
                canceled=True,
                watch_id=-1,
                cancel_reason="rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            ),
            Denied,
        ),
        (created(canceled=True, cancel_reason="etcdserver: user name is empty"), Denied),
    ],
)
async def test_a_cancelled_watch_is_an_error(folder: Path, answer: Any, error: type[Exception]) -> None:
    async with scripted(folder, lambda stream, start: [answer], stay=True) as (store, server):
        with pytest.raises(error):
            await take(store.watch("/", 4), 1)
        assert len(server.starts) == 1


async def test_another_cluster_behind_the_endpoint_means_list_again(folder: Path) -> None:
    def script(stream: int, start: int) -> list[Any]:
        return [created(cluster=stream), says(start)]

    async with scripted(folder, script) as (store, _):
        watch = store.watch("/", 4)
        await take(watch, 1)
        with pytest.raises(Compacted):
            await take(watch, 1)


async def test_a_cluster_that_is_behind_causes_a_new_list(folder: Path) -> None:
    """Restored with the same members and token it keeps its id; its streams would only wait."""

    def script(stream: int, start: int) -> list[Any]:
        return [created(), says(500)] if stream == 1 else [created(499), says(start)]

    async with scripted(folder, script, agreed=499) as (store, _):
        watch = store.watch("/", 4)
        await take(watch, 1)
        with pytest.raises(Compacted):
            await take(watch, 1)


async def test_a_member_that_lags_behind_delivers_what_is_to_come(folder: Path) -> None:
    """It was just started again: the others have what it has not."""

    def script(stream: int, start: int) -> list[Any]:
        return [created(), says(500)] if stream == 1 else [created(499), says(start)]

    async with scripted(folder, script, agreed=500) as (store, _):
        first, second = await take(store.watch("/", 4), 2)
        assert (first.revision, second.revision) == (500, 501)


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [created()],
        [created(canceled=True, cancel_reason="etcdserver: server stopped")],
        [says(1)],
    ],
    ids=["ends at once", "ends after creation", "cancelled for now", "never created"],
)
async def test_a_stream_that_always_breaks_is_not_a_busy_loop(folder: Path, answers: list[Any]) -> None:
    async with scripted(folder, lambda stream, start: answers) as (store, server):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await anext(aiter(store.watch("/", 4)))
        # Pauses of 0.05, 0.1, 0.2, 0.4, 0.5, … s, each drawn from its upper half.
        assert 3 <= len(server.starts) <= 14, f"{len(server.starts)} streams in 2 s"
        assert set(server.starts) == {5}


async def test_a_silent_member_is_asked_and_then_left(folder: Path) -> None:
    def script(stream: int, start: int) -> list[Any]:
        return [created()] if stream == 1 else [created(), says(start)]

    async with scripted(folder, script, stay=True) as (store, server):
        begun_s = asyncio.get_running_loop().time()
        await take(store.watch("/", 4), 1)
        assert asyncio.get_running_loop().time() - begun_s < 6.0
        assert server.questions == 1
        assert server.starts == [5, 5]


async def test_a_closed_iterator_ends_the_stream(folder: Path) -> None:
    ended = asyncio.Event()

    class Noticing(Scripted):
        async def Watch(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            context.add_done_callback(lambda _: ended.set())
            async for response in super().Watch(requests, context):
                yield response

    server = grpc.aio.server()
    add_WatchServicer_to_server(Noticing(lambda stream, start: [created(), says(5)], True), server)
    server.add_insecure_port(f"unix:{folder}/s")
    await server.start()
    store = EtcdStore(StoreSettings(endpoints=(f"unix:{folder}/s",)))
    for cancel in (False, True):
        ended.clear()
        watch = store.watch("/", 4)
        await take(watch, 1)
        if cancel:
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0.05)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        else:
            await watch.aclose()
        await asyncio.wait_for(ended.wait(), SOON_S)
    await store.close()
    await server.stop(None)
