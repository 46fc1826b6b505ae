"""The real-etcd bench without etcd: records from numbers, the cheap reader, and rates held to a share."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aetcd import rpc

# The benches are no part of the package: they are found from the checkout's top.
sys.path.insert(0, str(Path(__file__).parents[3]))

from bench.scale import load
from bench.scale.whole import _least
from bench.scale.wire import Wire

from metastack.core.protocol.guards import OwnSession
from metastack.core.transaction import MAX_OPERATIONS, merged

ME = OwnSession(node="n0001", session=5, lease=7)


def _response(revision: int, events: int) -> bytes:
    message = rpc.WatchResponse()
    for _ in range(events):
        message.events.add().kv.mod_revision = revision
    raw = message.SerializeToString()
    body = b"\0" + len(raw).to_bytes(4, "big") + raw
    return len(body).to_bytes(3, "big") + b"\0\0" + (1).to_bytes(4, "big") + body


class _Nowhere(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.out = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.out += bytes(data)


async def test_the_cheap_reader_counts_whatever_the_pieces() -> None:
    stream = _response(7, 3) + b"\0\0\x08\x06\0\0\0\0\0" + b"12345678" + _response(9, 1)
    for size in (1, 5, 9, len(stream)):
        wire, nowhere = Wire("127.0.0.1:1", ("/a/",), keep=True), _Nowhere()
        wire.connection_made(nowhere)
        asked = len(nowhere.out)
        for at in range(0, len(stream), size):
            wire.data_received(stream[at : at + size])
        assert (wire.messages, wire.revision) == (2, 9)
        assert wire.arrivals is not None
        assert [revision for revision, _ in wire.arrivals] == [7, 9]
        assert nowhere.out[asked:] == b"\0\0\x08\x06\x01\0\0\0\0" + b"12345678", "a ping is answered"
        await asyncio.wait_for(wire.reached(9), 1)


def test_every_process_makes_the_same_record_of_a_number() -> None:
    assert load.claim(3, ME, 10) == load.claim(3, ME, 10)
    assert load.spec(3) != load.spec(4)


def test_no_transaction_is_larger_than_etcd_takes() -> None:
    changes = [
        *load.wishes(range(100)),
        *load.settled(range(100), [ME]),
        *load.places(250),
        *load.nodes([load.node(n) for n in range(100)], 7, cordoned=True),
        merged([load.claim(n, ME, 10) for n in range(load.AT_ONCE)]),
    ]
    for change in changes:
        assert max(len(change.effects), len(change.guards)) <= MAX_OPERATIONS, change.name


def test_claims_together_compare_each_and_themselves_once() -> None:
    parts = [load.claim(n, ME, 10) for n in range(3)]
    whole = merged(parts)
    assert set(whole.guards) == {guard for part in parts for guard in part.guards}
    assert len(whole.guards) == 3 * 3 + 2


def test_a_rate_is_held_to_its_share() -> None:
    assert _least("x", 1, 50.0, 100.0, 0.5).ok
    assert not _least("x", 1, 49.0, 100.0, 0.5).ok
