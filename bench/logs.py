"""Central logs through a minute without the log host: what one node keeps up with, and that nothing is lost."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from bench.central_logs import Certificates, Daemon, LogHost, LogNode, missing, until
from bench.harness import Result, row, say
from metastack.pki.subject import SubjectKind

RATE = 5_000
UP_S, DOWN_S = 10.0, 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


def run(runs: int | None = None) -> Result:
    """``runs``: events per second, 5,000 unless given."""
    if reason := missing():
        raise RuntimeError(reason)
    rate = runs or RATE
    count = int(rate * (UP_S + DOWN_S + UP_S))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pki").mkdir()
        pki = Certificates(folder / "pki")
        host = LogHost(folder / "host", pki.of(SubjectKind.SERVICE, "logs"), ["node.n1"], {"127.0.0.2": "n1"})
        node = LogNode(folder / "n1", "n1", "127.0.0.2", host, pki.of(SubjectKind.NODE, "n1"))
        try:
            return _measure(host, node, rate, count)
        finally:
            for feeder in node.feeders:
                feeder.kill()
                feeder.wait()
            node.stop()
            host.daemon.end()


def _measure(host: LogHost, node: LogNode, rate: int, count: int) -> Result:
    host.start()
    node.start()
    node.forward()
    feeder = node.feed(count, rate)
    time.sleep(UP_S)
    host.daemon.end(signal.SIGKILL)
    say(f"  the log host is down; {host.size('n1')} lines have arrived")
    down_s = time.monotonic()
    time.sleep(DOWN_S)
    largest = node.queued_bytes()
    host.start()
    down_s = time.monotonic() - down_s
    output, _ = feeder.communicate(timeout=600)
    ended_s = time.monotonic()
    reached = float(output)
    until("the last line", lambda: host.size("n1") >= count, 600)
    drain_s = time.monotonic() - ended_s
    arrived = host.numbers("n1")
    first = list(dict.fromkeys(arrived))
    lost = count - len(first)
    moved = sum(a > b for a, b in pairwise(first))
    cpu = {name: _cpu_s(daemon.process.pid) for name, daemon in _daemons(host, node) if daemon.process}
    say(f"  {reached:.0f} events/s for {count / reached:.0f} s, {lost} lost, {moved} out of order")
    rows = [
        row("logs: events per second of one node, log host down for a minute", "1/s", [reached]),
        row("logs: events lost", "events", [lost], limit=0),
        row("logs: events out of order", "events", [moved], limit=0),
        row("logs: events twice", "events", [len(arrived) - len(first)]),
        row("logs: queue on disk after the minute", "MB", [largest / 1e6]),
        row("logs: last line after the last event", "s", [drain_s]),
        *(row(f"logs: CPU of the {name} for 1,000 events", "ms", [s * 1e6 / count]) for name, s in cpu.items()),
    ]
    raw = {"rate_wanted": rate, "events": count, "down_s": down_s, "cpu_s": cpu, "nice": os.nice(0)}
    return Result(rows=rows, raw=raw)


def _daemons(host: LogHost, node: LogNode) -> tuple[tuple[str, Daemon], ...]:
    return (
        ("forwarder", node.forwarder),
        ("journald", node.journald),
        ("log host since its start", host.daemon),
    )


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
