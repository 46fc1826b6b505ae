"""The sender against a real rsyslogd: all arrive, a restart in the middle, a server that is away or stuck."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import structlog

from metastack.telemetry import logs
from metastack.telemetry.syslog import Syslog

RSYSLOGD = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin:/sbin:/bin")

pytestmark = pytest.mark.skipif(RSYSLOGD is None, reason="rsyslogd is not installed (apt: rsyslog)")

CONFIG = """
global(workDirectory="{folder}" maxMessageSize="16k")
module(load="imtcp")
module(load="mmjsonparse")
main_queue(queue.type="LinkedList" queue.size="100000" queue.timeoutEnqueue="60000")
template(name="json" type="string"
  string="%syslogseverity% %hostname% %app-name% %msgid% %$!all-json-plain%\\n")
ruleset(name="in") {{
  action(type="mmjsonparse" cookie="")
  if $parsesuccess == "OK" then {{
    action(type="omfile" file="{folder}/out" template="json" asyncWriting="off")
  }} else {{
    action(type="omfile" file="{folder}/bad")
  }}
}}
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="in" supportOctetCountedFraming="on")
"""


def free_port() -> int:
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class Server:
    """One rsyslogd of our own: loopback, its own folder, stopped by its pid."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"tcp://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "conf").write_text(CONFIG.format(folder=folder, port=self.port))

    async def start(self) -> None:
        assert RSYSLOGD is not None
        arguments = [RSYSLOGD, "-n", "-f", str(self.folder / "conf"), "-i", str(self.folder / "pid")]
        with (self.folder / "err").open("ab") as err:
            self._process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=err)  # noqa: ASYNC220
        await until(self._listens, lambda: (self.folder / "err").read_text())

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    async def stop(self) -> None:
        if self._process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, 20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def lines(self) -> list[tuple[list[str], dict[str, object]]]:
        """Whole lines only: rsyslogd may be in the middle of writing the last one."""
        out = self.folder / "out"
        text = out.read_text(errors="replace") if out.exists() else ""
        rows = text[: text.rfind("\n") + 1].splitlines()
        return [(row.split(" ", 4)[:4], json.loads(row.split(" ", 4)[4])) for row in rows]

    def numbers(self, event: str = "counted") -> list[object]:
        return [fields["n"] for _, fields in self.lines() if fields["event"] == event]

    def size(self) -> int:
        out = self.folder / "out"
        return out.read_bytes().count(b"\n") if out.exists() else 0


async def until(test: Callable[[], object], seen: Callable[[], object], within_s: float = 60) -> None:
    """Wait for a condition with a deadline; say what was seen instead when it does not come."""
    try:
        async with asyncio.timeout(within_s):
            while not test():  # noqa: ASYNC110 -- another process is looked at
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {within_s} s; seen: {seen()}")


@asynccontextmanager
async def running(sender: Syslog) -> AsyncIterator[None]:
    task = asyncio.create_task(sender.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path)
    yield server
    await server.stop()


@pytest.fixture
def attach() -> Iterator[Callable[[Syslog], None]]:
    stream = Path(os.devnull).open("w")  # noqa: SIM115 -- closed below, after the last event

    def attach(sender: Syslog) -> None:
        logs.configure("json", "debug", "n1", stream=stream)
        logs.forward_to(sender.offer)

    yield attach
    logs.forward_to(None)
    structlog.reset_defaults()
    stream.close()


async def test_every_one_of_20_000_arrives_parsed(server: Server, attach: Callable[[Syslog], None]) -> None:
    await server.start()
    sender = Syslog("n1", target=server.url)
    attach(sender)
    log = structlog.get_logger()
    async with running(sender):
        await until(lambda: sender.connected, lambda: "no connection")
        for n in range(20_000):
            log.info("counted", n=n, text='quotes " and \\ and\nnewlines, ünicode')
            if n % 200 == 199:
                await asyncio.sleep(0)
        await until(lambda: server.size() >= 20_001, server.size)
        assert sender.dropped_total == 0
    assert server.numbers() == list(range(20_000))
    assert not (server.folder / "bad").exists(), (server.folder / "bad").read_text()[:500]
    header, fields = server.lines()[1]
    assert header == ["6", "n1", "metastack-agent", "counted"]
    assert fields["text"] == 'quotes " and \\ and\nnewlines, ünicode'
    assert fields["host"] == "n1"


async def test_severities_and_a_huge_event(server: Server, attach: Callable[[Syslog], None]) -> None:
    await server.start()
    sender = Syslog("n1", target=server.url)
    attach(sender)
    log = structlog.get_logger()
    async with running(sender):
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(log, level)("counted", n=level)
        log.info("counted", n="huge", output="x" * 100_000)
        await until(lambda: len(server.numbers()) == 6, server.lines)
    severities = {str(fields["n"]): header[0] for header, fields in server.lines() if "n" in fields}
    assert severities == {"debug": "7", "info": "6", "warning": "4", "error": "3", "critical": "2", "huge": "6"}


async def test_rsyslogd_restarts_in_the_middle(server: Server, attach: Callable[[Syslog], None]) -> None:
    await server.start()
    sender = Syslog("n1", target=server.url)
    attach(sender)
    log = structlog.get_logger()
    async with running(sender):
        for n in range(2_000):
            log.info("counted", n=n)
        await until(lambda: len(server.numbers()) == 2_000, server.size)
        await server.stop()
        await until(lambda: not sender.connected, lambda: "still connected")
        for n in range(2_000, 5_000):
            log.info("counted", n=n)
        assert sender.queued >= 3_000
        await server.start()
        await until(lambda: len(server.numbers()) >= 5_000, server.size)
        assert server.numbers() == list(range(5_000))
        assert sender.dropped_total == 0


async def test_an_absent_server_blocks_nothing_and_drops_are_reported(
    server: Server, attach: Callable[[Syslog], None]
) -> None:
    sender = Syslog("n1", target=server.url)
    attach(sender)
    log = structlog.get_logger()
    slowest_s = 0.0
    async with running(sender):
        loop = asyncio.get_running_loop()
        for n in range(15_000):
            log.info("counted", n=n)
            if n % 100 == 99:
                began_s = loop.time()
                await asyncio.sleep(0)
                slowest_s = max(slowest_s, loop.time() - began_s)
        assert sender.queued == 10_000
        dropped = sender.dropped_total
        assert 5_000 <= dropped <= 5_010
        # One turn of the loop; generous, because the machine is shared. A connect timeout would be 5 s.
        assert slowest_s < 1.0
        await server.start()
        await until(lambda: any(f["event"] == "syslog_dropped" for _, f in server.lines()), server.size)
        reports = [f for _, f in server.lines() if f["event"] == "syslog_dropped"]
        assert sum(int(str(f["count"])) for f in reports) == sender.dropped_total
        kept = server.numbers()
        assert kept == list(range(len(kept)))
        await until(lambda: sender.queued == 0, lambda: sender.queued)


async def test_a_server_that_stops_reading_blocks_nobody(
    server: Server, attach: Callable[[Syslog], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metastack.telemetry.syslog.WRITE_TIMEOUT_S", 1.0)
    await server.start()
    sender = Syslog("n1", target=server.url, queue_limit=2_000)
    attach(sender)
    log = structlog.get_logger()
    async with running(sender):
        await until(lambda: sender.connected, lambda: "no connection")
        server.signal(signal.SIGSTOP)
        n = 0

        def flood() -> bool:
            nonlocal n
            for _ in range(500):
                log.info("counted", n=n, filler="x" * 4000)
                n += 1
            return sender.dropped_total > 0

        await until(flood, lambda: (n, sender.queued))
        assert sender.queued == 2_000
        await until(lambda: not sender.connected, lambda: "the stuck connection was not left")
        server.signal(signal.SIGCONT)
        await until(lambda: sender.queued == 0 and sender.connected, lambda: sender.queued)
        await until(lambda: any(f["event"] == "syslog_dropped" for _, f in server.lines()), server.size)


async def test_the_target_changes_while_it_runs(tmp_path: Path, attach: Callable[[Syslog], None]) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    first, second = (Server(folder) for folder in folders)
    sender = Syslog("n1", target=first.url)
    attach(sender)
    log = structlog.get_logger()
    try:
        await first.start()
        await second.start()
        async with running(sender):
            log.info("counted", n=1)
            await until(lambda: first.numbers() == [1], first.lines)
            sender.set_target(second.url)
            log.info("counted", n=2)
            await until(lambda: second.numbers() == [2], second.lines)
            sender.set_target("")
            await until(lambda: not sender.connected, lambda: "still connected")
            log.info("counted", n=3)
            assert sender.queued == 0
            sender.set_target(first.url)
            log.info("counted", n=4)
            await until(lambda: first.numbers() == [1, 4], first.lines)
        assert second.numbers() == [2]
    finally:
        await first.stop()
        await second.stop()


async def test_close_sends_what_is_queued(server: Server, attach: Callable[[Syslog], None]) -> None:
    await server.start()
    sender = Syslog("n1", target=server.url)
    attach(sender)
    log = structlog.get_logger()
    async with asyncio.TaskGroup() as group:
        group.create_task(sender.run())
        await until(lambda: sender.connected, lambda: "no connection")
        for n in range(5_000):
            log.info("counted", n=n)
        await sender.close(drain_s=20)
    await until(lambda: len(server.numbers()) == 5_000, server.size)


async def test_close_after_run_was_cancelled_sends_the_last_words(
    server: Server, attach: Callable[[Syslog], None]
) -> None:
    await server.start()
    sender = Syslog("n1", target=server.url)
    attach(sender)
    async with running(sender):
        await until(lambda: sender.connected, lambda: "no connection")
    for n in range(100):
        structlog.get_logger().info("counted", n=n)
    await sender.close(drain_s=20)
    await until(lambda: len(server.numbers()) == 100, server.size)


async def test_events_from_threads_arrive(server: Server, attach: Callable[[Syslog], None]) -> None:
    await server.start()
    sender = Syslog("n1", target=server.url)
    attach(sender)
    log = structlog.get_logger()

    def shout(name: int) -> None:
        for n in range(500):
            log.info("counted", n=name * 1000 + n)

    async with running(sender):
        await asyncio.gather(*(asyncio.to_thread(shout, name) for name in range(4)))
        await until(lambda: len(server.numbers()) == 2_000, server.size)
    assert sorted(map(int, map(str, server.numbers()))) == [a * 1000 + n for a in range(4) for n in range(500)]
