"""Events to the journal: the native protocol, and that nobody waits for journald or loses an event unsaid."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from metastack.telemetry import journal, logs


class Journald:
    """Stands where journald does: a datagram socket that is read when the test says so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)

    def entry(self) -> dict[str, bytes]:
        return fields(self.socket.recv(1 << 20))

    def events(self, count: int) -> list[dict[str, object]]:
        return [json.loads(self.entry()["MESSAGE"]) for _ in range(count)]


def fields(entry: bytes) -> dict[str, bytes]:
    """The entry as journald reads it; each field may come once."""
    found: dict[str, bytes] = {}
    while entry:
        name, rest = entry.split(b"\n", 1)
        (size,) = struct.unpack("<Q", rest[:8])
        assert name.decode() not in found
        found[name.decode()] = rest[8 : 8 + size]
        assert rest[8 + size : 9 + size] == b"\n"
        entry = rest[9 + size :]
    return found


@pytest.fixture
def journald(monkeypatch: pytest.MonkeyPatch) -> Iterator[Journald]:
    with tempfile.TemporaryDirectory() as folder:
        server = Journald(Path(folder) / "socket")
        monkeypatch.setattr(journal, "SOCKET", str(server.path))
        yield server
        server.socket.close()
        logs._output = None
        structlog.reset_defaults()


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[io.TextIOWrapper]:
    with (tmp_path / "stderr").open("w+") as stream:
        seen = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{seen.st_dev}:{seen.st_ino}")
        yield stream


def test_under_systemd_an_event_is_a_journal_entry(journald: Journald, stderr: io.TextIOWrapper) -> None:
    logs.configure("auto", "info", "n1", "metastack-agent", stderr)
    structlog.get_logger().error("fenced", vm="default/x")
    entry = journald.entry()
    event = json.loads(entry.pop("MESSAGE"))
    assert (event["event"], event["vm"], event["host"]) == ("fenced", "default/x", "n1")
    assert entry == {
        "PRIORITY": b"3",
        "SYSLOG_IDENTIFIER": b"metastack-agent",
        "METASTACK_EVENT": b"fenced",
    }
    assert stderr.tell() == 0


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", b"7"), ("info", b"6"), ("warning", b"4"), ("error", b"3"), ("critical", b"2")],
)
def test_levels_become_priorities_of_syslog(
    journald: Journald, stderr: io.TextIOWrapper, level: str, priority: bytes
) -> None:
    logs.configure("auto", "debug", stream=stderr)
    getattr(structlog.get_logger(), level)("x")
    assert journald.entry()["PRIORITY"] == priority


def test_a_stream_that_journald_does_not_read_gets_lines(
    journald: Journald, stderr: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A child inherits the variable even if its stderr was redirected.
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    logs.configure("auto", stream=stderr)
    structlog.get_logger().info("x")
    stderr.seek(0)
    assert json.loads(stderr.read())["event"] == "x"


def test_the_format_json_stays_on_stderr(journald: Journald, stderr: io.TextIOWrapper) -> None:
    logs.configure("json", stream=stderr)
    structlog.get_logger().info("x")
    stderr.seek(0)
    assert json.loads(stderr.read())["event"] == "x"


def test_no_value_forges_a_field_of_an_entry(journald: Journald, stderr: io.TextIOWrapper) -> None:
    logs.configure("auto", stream=stderr)
    forged = 'x\nPRIORITY=0\n\0MESSAGE\n"}\r\x1b[2J' + "y" * 64_000
    structlog.get_logger().info("odd\nPRIORITY=0", value=forged)
    entry = journald.entry()
    assert entry["PRIORITY"] == b"6"
    assert len(entry["MESSAGE"]) <= logs.MAX_JOURNAL_BYTES
    assert b"\n" not in entry["MESSAGE"]
    event = json.loads(entry["MESSAGE"])
    assert event["truncated"] is True
    assert str(event["value"]).startswith('x\nPRIORITY=0\n\0MESSAGE\n"}\r\x1b[2J')


def test_a_journald_that_stops_reading_blocks_nobody(journald: Journald) -> None:
    sender = journal.Journal("app", str(journald.path))
    for n in range(5_000):
        sender.offer("info", "counted", "", b'{"n":%d}' % n)
    assert [e["n"] for e in journald.events(5_000)] == list(range(5_000))
    sender.close()


def test_what_did_not_fit_is_counted_once_journald_reads(
    journald: Journald, stderr: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "BACKLOG_LIMIT", 100)
    logs.configure("auto", stream=stderr)
    log = structlog.get_logger()
    for n in range(5_000):
        log.info("counted", n=n)
    arrived: list[dict[str, object]] = []
    while not arrived or arrived[-1]["event"] != "journal_dropped":
        arrived += journald.events(1)
    kept = [e["n"] for e in arrived[:-1]]
    assert kept == list(range(len(kept)))
    assert arrived[-1]["count"] == 5_000 - len(kept)


def test_events_wait_for_a_journald_that_comes_back(
    journald: Journald, monkeypatch: pytest.MonkeyPatch
) -> None:
    journald.socket.close()
    sender = journal.Journal("app", str(journald.path))
    for n in range(10):
        sender.offer("info", "counted", "", b'{"n":%d}' % n)
    journald.path.unlink()
    again = Journald(journald.path)
    assert [e["n"] for e in again.events(10)] == list(range(10))
    again.socket.close()
    sender.close()


def test_close_gives_up_on_a_journald_that_is_gone(journald: Journald, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "DRAIN_S", 0.1)
    journald.socket.close()
    sender = journal.Journal("app", str(journald.path))
    sender.offer("info", "x", "", b"{}")
    sender.close()
    sender.offer("info", "late", "", b"{}")
