"""What reading a watch stream costs, by how it is read: CPU of a process that decodes each message and no more.

Owns: one etcd, one process for each reader, bursts of claims. Refuses: deciding which one the store takes.
Rule: every reader is given the same messages in the same bursts; CPU time of the whole process, with threads.

``python -m bench.scale.readers wire,aio,thread,socket,h2,curl``: the last one needs a package that MetaStack
does not (pycurl), found by PYTHONPATH. ``h2`` is the library alone, beside the store's (``wire``).
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import grpc.aio
import uvloop
from aetcd import rpc

from bench.scale import load
from bench.scale.stage import stage
from bench.scale.wire import Wire
from metastack.core.state.keys import prefix_end
from metastack.core.transaction import Transaction
from metastack.store.etcd.channel import OPTIONS
from metastack.store.etcd.messages import key_of
from metastack.store.etcd.wire import Wire as ShippedWire

BURSTS, BURST, WARM = 14, 50, 2
PREFIX = load.KEYS.prefix()
CREATE = rpc.WatchRequest(
    create_request=rpc.WatchCreateRequest(key=key_of(PREFIX), range_end=prefix_end(PREFIX), fragment=True)
)
PATH = "/etcdserverpb.Watch/Watch"
seen = {"messages": 0, "revision": 0}


def saw(response: Any) -> None:
    if response.events:
        seen["messages"] += 1
        seen["revision"] = response.events[-1].kv.mod_revision


class Framed:
    """gRPC's frames: a flag, a length, a message."""

    def __init__(self) -> None:
        raw = CREATE.SerializeToString()
        self.request, self._left = b"\0" + len(raw).to_bytes(4, "big") + raw, b""

    def feed(self, data: bytes) -> None:
        data, at = self._left + data, 0
        while len(data) >= at + 5 and len(data) >= (
            end := at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")
        ):
            saw(rpc.WatchResponse.FromString(data[at + 5 : end]))
            at = end
        self._left = data[at:]


async def aio(endpoint: str) -> None:
    call = rpc.WatchStub(grpc.aio.insecure_channel(endpoint, options=OPTIONS)).Watch()
    await call.write(CREATE)
    while True:
        saw(await call.read())


async def shipped(endpoint: str) -> None:
    """The store's own."""
    call = await ShippedWire.open(endpoint, PATH, (), None)
    await call.write(CREATE)
    while True:
        saw(await call.read())


async def thread(endpoint: str) -> None:
    """Synchronous gRPC in a thread; the loop is woken once for all that wait."""
    loop, waiting, woken = asyncio.get_running_loop(), deque[Any](), False

    def requests() -> Any:
        yield CREATE
        threading.Event().wait()

    def run() -> None:
        nonlocal woken
        for response in rpc.WatchStub(grpc.insecure_channel(endpoint, options=OPTIONS)).Watch(requests()):
            waiting.append(response)
            if not woken:
                woken = True
                loop.call_soon_threadsafe(drain)

    def drain() -> None:
        nonlocal woken
        woken = False
        while waiting:
            saw(waiting.popleft())

    threading.Thread(target=run, daemon=True).start()
    await asyncio.Event().wait()


async def socket(endpoint: str) -> None:
    wire = await Wire.open(f"http://{endpoint}", (PREFIX,), keep=False)
    wire._response = saw  # type: ignore[method-assign]
    await asyncio.Event().wait()


async def h2(endpoint: str) -> None:
    import h2.config
    import h2.connection
    import h2.events

    framed, config = Framed(), h2.config.H2Configuration(client_side=True)
    one = h2.connection.H2Connection(config)

    class Reader(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self._transport = transport
            one.initiate_connection()
            one.increment_flow_control_window(1 << 30)
            one.update_settings({4: (1 << 31) - 1})
            headers = {":method": "POST", ":scheme": "http", ":path": PATH, ":authority": endpoint}
            one.send_headers(1, [*headers.items(), ("te", "trailers"), ("content-type", "application/grpc")])
            one.send_data(1, framed.request)
            transport.write(one.data_to_send())

        def data_received(self, data: bytes) -> None:
            for event in one.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    framed.feed(event.data)
                    one.acknowledge_received_data(event.flow_controlled_length, 1)
            if out := one.data_to_send():
                self._transport.write(out)

    host, _, port = endpoint.rpartition(":")
    await asyncio.get_running_loop().create_connection(Reader, host, int(port))
    await asyncio.Event().wait()


async def curl(endpoint: str) -> None:
    import pycurl

    loop, framed, many, one = asyncio.get_running_loop(), Framed(), pycurl.CurlMulti(), pycurl.Curl()
    requests, timers = [framed.request], list[asyncio.TimerHandle]()

    def wants(event: int, fd: int, _many: Any, _data: Any) -> None:
        loop.remove_reader(fd)
        loop.remove_writer(fd)
        if event in (pycurl.POLL_IN, pycurl.POLL_INOUT):
            loop.add_reader(fd, many.socket_action, fd, pycurl.CSELECT_IN)
        if event in (pycurl.POLL_OUT, pycurl.POLL_INOUT):
            loop.add_writer(fd, many.socket_action, fd, pycurl.CSELECT_OUT)

    def timer(after_ms: int) -> None:
        while timers:
            timers.pop().cancel()
        if after_ms >= 0:
            timers.append(loop.call_later(after_ms / 1000, many.socket_action, pycurl.SOCKET_TIMEOUT, 0))

    many.setopt(pycurl.M_SOCKETFUNCTION, wants)
    many.setopt(pycurl.M_TIMERFUNCTION, timer)
    one.setopt(pycurl.URL, f"http://{endpoint}{PATH}")
    one.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE)
    one.setopt(pycurl.POST, 1)
    one.setopt(pycurl.HTTPHEADER, ["content-type: application/grpc", "te: trailers", "Expect:", "Accept:"])
    one.setopt(pycurl.READFUNCTION, lambda size: requests.pop() if requests else pycurl.READFUNC_PAUSE)
    one.setopt(pycurl.WRITEFUNCTION, framed.feed)
    many.add_handle(one)
    many.socket_action(pycurl.SOCKET_TIMEOUT, 0)
    await asyncio.Event().wait()


READERS: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
    "wire": shipped, "aio": aio, "thread": thread, "socket": socket, "h2": h2, "curl": curl,
}  # fmt: skip


async def read(name: str, endpoint: str) -> None:
    """The child: reads, and answers each line with its CPU time and what it saw."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.TaskGroup() as group:
        group.create_task(READERS[name](endpoint))
        while await reader.readline():
            print(json.dumps({"cpu_s": time.process_time(), **seen}), flush=True)
        os._exit(0)


async def tell(child: Any) -> dict[str, Any]:
    child.stdin.write(b"\n")
    return json.loads(await child.stdout.readline())  # type: ignore[no-any-return]


async def measure(names: list[str]) -> dict[str, list[float]]:
    """Microseconds a message, one figure a burst."""
    async with stage() as one:
        await one.write([load.config(rank_delay_ms=1000)])
        (me,) = await one.nodes([load.node(1)], cordoned=False)
        command = (sys.executable, "-m", "bench.scale.readers", "--read")
        endpoint = one.endpoint.removeprefix("http://")
        children = {
            name: await asyncio.create_subprocess_exec(*command, name, endpoint, stdin=-1, stdout=-1)
            for name in names
        }
        found: dict[str, list[float]] = {name: [] for name in names}
        for burst in range(BURSTS):
            before = {name: await tell(child) for name, child in children.items()}
            claims = [load.claim(n, me, 0).effects for n in range(burst * BURST, (burst + 1) * BURST)]
            changes = [Transaction(name="claim", guards=(), effects=one, lease=me.lease) for one in claims]
            last = max(await one.write(changes, at_once=8))
            for name, child in children.items():
                async with asyncio.timeout(30):
                    while (after := await tell(child))["revision"] < last:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                if burst >= WARM:
                    found[name].append(round((after["cpu_s"] - before[name]["cpu_s"]) / BURST * 1e6, 1))
        for child in children.values():
            child.stdin.close()  # type: ignore[union-attr]
            await child.wait()
        return found


def main() -> None:
    if sys.argv[1] == "--read":
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as in agent/main
            runner.run(read(*sys.argv[2:4]))
    for name, found in asyncio.run(measure(sys.argv[1].split(","))).items():
        print(f"{name:8} median {statistics.median(found):.1f} us a message ({min(found)} to {max(found)})")


if __name__ == "__main__":
    main()
