"""Frames, headers, targets and the queue's bound, without a server."""

from __future__ import annotations

import asyncio
import re
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastack.core.syslog_target import parse_syslog_target
from metastack.telemetry.syslog import Syslog, frame, header_field

HEADER = re.compile(rb"<(\d{1,3})>1 ([!-~]+) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) - ")


def unpack(raw: bytes) -> tuple[int, bytes]:
    """Priority and MSG of one frame; asserts the octet count and the header's grammar."""
    count, rest = raw.split(b" ", 1)
    assert int(count) == len(rest)
    head = HEADER.match(rest)
    assert head, rest
    return int(head[1]), rest[head.end() :]


@pytest.mark.parametrize(
    ("level", "severity"),
    [("critical", 2), ("error", 3), ("warning", 4), ("info", 6), ("debug", 7), ("odd", 6)],
)
def test_severity_by_level(level: str, severity: int) -> None:
    pri, payload = unpack(frame(level, "2026-01-01T00:00:00.000000Z", "n1", "app", "1", "claimed", b'{"a":1}'))
    assert pri == 3 * 8 + severity
    assert payload == b'{"a":1}'


@given(st.text(), st.text(), st.text(), st.text(max_size=400).map(lambda s: s.encode("utf-8", "replace")))
def test_no_text_breaks_the_header_or_the_count(host: str, app: str, event: str, payload: bytes) -> None:
    assert unpack(frame("info", "2026-01-01T00:00:00Z", host, app, "12", event, payload))[1] == payload


def test_header_field() -> None:
    assert header_field("", 5) == "-"
    assert header_field("a b\nc", 10) == "a_b_c"
    assert header_field("ünix", 10) == "_nix"
    assert header_field("x" * 300, 255) == "x" * 255


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", None),
        ("tcp://log.example:514", ("log.example", 514)),
        ("tcp://10.0.0.1:6514", ("10.0.0.1", 6514)),
        ("tcp://[fd00::1]:514", ("fd00::1", 514)),
    ],
)
def test_targets(url: str, expected: tuple[str, int] | None) -> None:
    assert parse_syslog_target(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "log:514",
        "udp://log:514",
        "tcp://log",
        "tcp://log:0",
        "tcp://log:70000",
        "tcp://log:x",
        "tcp://:514",
        "tcp://log:514/path",
        "tcp://log:514?x=1",
        "tcp://me@log:514",
        "tcp://log:5 14",
        "tcp://lög:514",
        "tcp://log:514\n",
        "tcp://[fd00::1:514",
    ],
)
def test_bad_targets_are_named(url: str) -> None:
    with pytest.raises(ValueError):
        parse_syslog_target(url)


def test_the_queue_is_bounded_and_drops_are_counted() -> None:
    sender = Syslog("n1", target="tcp://127.0.0.1:1", queue_limit=100)
    for _ in range(250):
        sender.offer("info", "x", "-", b"{}")
    assert sender.queued == 100
    assert sender.dropped_total == 150


def test_without_a_target_nothing_is_kept_or_counted() -> None:
    sender = Syslog("n1")
    sender.offer("info", "x", "-", b"{}")
    assert (sender.queued, sender.dropped_total) == (0, 0)


def test_a_bad_target_changes_nothing() -> None:
    sender = Syslog("n1", target="tcp://127.0.0.1:1")
    with pytest.raises(ValueError):
        sender.set_target("udp://x:1")
    sender.offer("info", "x", "-", b"{}")
    assert sender.queued == 1


async def test_close_without_run_returns() -> None:
    await Syslog("n1", target="tcp://127.0.0.1:1").close()


async def test_close_is_bounded_while_the_server_is_away() -> None:
    sender = Syslog("n1", target="tcp://127.0.0.1:1")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(sender.run())
        sender.offer("info", "x", "-", b"{}")
        await asyncio.sleep(0)
        began = time.monotonic()
        await sender.close(drain_s=0.2)
        assert time.monotonic() - began < 5
        await task


async def test_close_without_a_target_ends_run() -> None:
    sender = Syslog("n1")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(sender.run())
        await asyncio.sleep(0)
        await sender.close()


async def test_a_server_that_never_reads_fills_the_queue_only() -> None:
    payload = b'"' + b"x" * 4_000 + b'"'
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)  # the kernel accepts; nobody reads
        sender = Syslog("n1", target=f"tcp://127.0.0.1:{listener.getsockname()[1]}", queue_limit=1_000)
        task = asyncio.create_task(sender.run())
        try:
            offered = 0
            async with asyncio.timeout(10):  # well below the write timeout: one connection all the time
                while offered < 10_000:
                    for _ in range(50):
                        sender.offer("info", "x", "-", payload)
                    offered += 50
                    await asyncio.sleep(0.001)
            taken = offered - sender.queued - sender.dropped_total
            assert sender.connected
            assert sender.dropped_total > 0
            assert sender.queued == 1_000
            # 4 MB is the largest send buffer that the kernel grows to; 40 MB were offered.
            assert taken * len(payload) < 12_000_000, taken
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
