"""Central logs on real journald and rsyslogd: none lost, the order kept, none forged, strangers refused."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from bench.central_logs import PATH, TEMPLATES, Certificates, LogHost, LogNode, missing, until

from metastack.pki.subject import SubjectKind

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

WINDOW = 4
"""Lines that may be on their way without an acknowledgement: windowSize of log-forwarder.conf."""
NODES = {"127.0.0.2": "n1", "127.0.0.3": "n2"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def host(tmp_path: Path, certificates: Certificates) -> Iterator[LogHost]:
    made = LogHost(
        tmp_path / "host", certificates.of(SubjectKind.SERVICE, "logs"), ["node.n1", "node.n2"], NODES
    )
    yield made
    made.daemon.end()


@pytest.fixture
def node(tmp_path: Path, certificates: Certificates, host: LogHost) -> Iterator[Callable[..., LogNode]]:
    made: list[LogNode] = []

    def node(name: str = "n1", source: str = "127.0.0.2", **more: str) -> LogNode:
        certificate = certificates.of(SubjectKind.NODE, name)
        made.append(LogNode(tmp_path / name, name, source, host, {**certificate, **more}))
        made[-1].start()
        return made[-1]

    yield node
    for one in made:
        one.stop()


def _whole(host: LogHost, name: str) -> bool:
    return len(set(host.numbers(name))) == 6_000


def fed(feeder: subprocess.Popen[str]) -> None:
    feeder.communicate(timeout=120)
    assert feeder.returncode == 0


def test_an_event_arrives_with_the_name_of_its_sender(host: LogHost, node: Callable[..., LogNode]) -> None:
    host.start()
    n1 = node()
    n1.forward()
    fed(n1.feed(3))
    until("three lines", lambda: host.size("n1") >= 3)
    lines = host.lines("n1")
    assert [line["n"] for line in lines] == [0, 1, 2]
    line = lines[0]
    assert (line["event"], line["vm"], line["unit"]) == ("counted", "default/web-1", "metastack-agent.service")
    # The message claimed another host: the connection decides, and the claim is kept beside it.
    assert (line["host"], line["claimed_host"]) == ("n1", "claims-to-be-another")


def test_nothing_is_lost_while_the_log_host_is_down(host: LogHost, node: Callable[..., LogNode]) -> None:
    host.start()
    nodes = [node(), node("n2", "127.0.0.3")]
    for one in nodes:
        one.forward()
    feeders = [one.feed(6_000, rate=2_000) for one in nodes]
    until("the first lines", lambda: min(host.size("n1"), host.size("n2")) > 1_000)
    host.daemon.end(signal.SIGKILL)
    until("the queues grow", lambda: min(one.queued_bytes() for one in nodes) > 1_000_000)
    host.start()
    for feeder in feeders:
        fed(feeder)
    for name in ("n1", "n2"):
        until(f"all lines of {name}", functools.partial(_whole, host, name), 120)
        arrived = host.numbers(name)
        # Lines without an acknowledgement are sent again: the first of each counts.
        assert list(dict.fromkeys(arrived)) == list(range(6_000))
        assert len(arrived) - 6_000 <= WINDOW


def test_a_restart_of_the_forwarder_loses_nothing(host: LogHost, node: Callable[..., LogNode]) -> None:
    host.start()
    n1 = node()
    n1.forward()
    feeder = n1.feed(6_000, rate=2_000)
    for lines in (500, 1_500):
        until("some lines", lambda lines=lines: host.size("n1") > lines)  # type: ignore[misc]
        n1.forwarder.end()
        n1.forward()
    fed(feeder)
    until("all lines", functools.partial(_whole, host, "n1"))
    assert list(dict.fromkeys(host.numbers("n1"))) == list(range(6_000))


@pytest.mark.parametrize(
    ("wrong", "line"),
    [("node.n3", "no permited name found"), ("another CA", "unable to get local issuer certificate")],
)
def test_a_sender_with_a_wrong_certificate_is_refused(
    host: LogHost,
    node: Callable[..., LogNode],
    certificates: Certificates,
    tmp_path: Path,
    wrong: str,
    line: str,
) -> None:
    certificate = certificates.of(SubjectKind.NODE, "n3")
    if wrong == "another CA":
        (tmp_path / "other").mkdir()
        stranger = Certificates(tmp_path / "other", "other").of(SubjectKind.NODE, "n1")
        certificate = {**stranger, "CA": certificate["CA"]}
    host.start()
    n1 = node(**certificate)
    n1.forward()
    fed(n1.feed(100))
    until(
        f"the log host says {line!r}",
        lambda: f"authentication error '{line}'" in host.said() or line in host.said(),
    )
    assert host.size("n1") == 0


@pytest.mark.parametrize("wrong", ["service.web", "another CA"])
def test_a_log_host_with_a_wrong_certificate_costs_no_line(
    host: LogHost, node: Callable[..., LogNode], certificates: Certificates, tmp_path: Path, wrong: str
) -> None:
    if wrong == "another CA":
        (tmp_path / "other").mkdir()
        certificate = Certificates(tmp_path / "other", "other").of(SubjectKind.SERVICE, "logs")
    else:
        certificate = certificates.of(SubjectKind.SERVICE, "web")
    host.start()
    n1 = node()
    n1.forward()
    fed(n1.feed(1_000))
    until("the first lines", lambda: host.size("n1") == 1_000)
    # In the middle of the stream it is replaced by one that proves nothing.
    host.daemon.end()
    host.start(**certificate)
    feeder = n1.feed(2_000)
    # rsyslog tries again only after a start: it ends, for systemd to start it.
    until("the forwarder ends", n1.forwarder.ended)
    fed(feeder)
    assert "authentication error" in n1.said()
    assert host.size("n1") == 1_000
    host.daemon.end()
    host.start()
    n1.forwarder.end()
    n1.forward()
    until("the last line that waited", lambda: host.numbers("n1")[-1] == 1_999)
    # Lines that went into the connection as it closed have no acknowledgement, and the restart forgets them.
    arrived = host.numbers("n1")[1_000:]
    assert arrived == list(range(2_000))[-len(arrived) :]
    assert len(arrived) >= 2_000 - WINDOW


def test_a_full_queue_makes_the_journal_wait(host: LogHost, node: Callable[..., LogNode]) -> None:
    n1 = node(QUEUE_SIZE="10m")
    n1.forward()
    fed(n1.feed(3_000, rate=2_000, size=3_000))
    until("the queue is full", lambda: n1.queued_bytes() > 10_000_000)
    # It ends in time although its inputs wait, and goes on where it was.
    n1.forwarder.end(within_s=20)
    n1.forward()
    host.start()
    until("the last line", lambda: host.numbers("n1")[-1:] == [2_999])
    arrived = list(dict.fromkeys(host.numbers("n1")))
    assert arrived == sorted(arrived)
    # The restart costs what was on its way. A full queue gives one line up every 5 s; those behind it waited.
    assert len(arrived) >= 3_000 - WINDOW - 4


def test_a_rotation_loses_nothing(host: LogHost, node: Callable[..., LogNode], tmp_path: Path) -> None:
    host.start()
    n1 = node()
    n1.forward()
    feeder = n1.feed(6_000, rate=2_000)
    until("the first lines", lambda: host.size("n1") > 1_000)
    assert host.daemon.process is not None
    rules = (TEMPLATES / "metastack-logs.logrotate").read_text()
    rules = rules.replace("/var/log/metastack", str(host.files)).replace(
        "systemctl reload metastack-log-server.service", f"kill -HUP {host.daemon.process.pid}"
    )
    (tmp_path / "rules").write_text(rules)
    (tmp_path / "rules").chmod(0o644)
    command = ["logrotate", "--force", "--state", str(tmp_path / "state"), str(tmp_path / "rules")]
    subprocess.run(command, check=True, env={"PATH": PATH})
    fed(feeder)
    until("the rotated and the new file hold all", lambda: len(_all(host.files)) >= 6_000)
    assert len(list(host.files.iterdir())) == 2
    assert _all(host.files) == list(range(6_000))


def _all(folder: Path) -> list[int]:
    """Numbers in all files, in the order of their names: the rotated one has a date behind its name."""
    lines = b"".join(path.read_bytes() for path in sorted(folder.iterdir(), key=lambda p: -len(p.name)))
    return [json.loads(line)["n"] for line in lines[: lines.rfind(b"\n") + 1].splitlines()]
