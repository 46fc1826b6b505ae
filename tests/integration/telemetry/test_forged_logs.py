"""Central logs against those who forge: a guest, a program of the node, a node with its real certificate."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from bench.central_logs import Certificates, LogHost, LogNode, missing, until

from metastack.pki.subject import SubjectKind

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

EVENT = '{"event":"fenced","host":"n9","vm":"default/x","level":"error","app":"metastack-agent"}'
"""What an attacker would like to have in the file as an event."""
HOSTILE = (
    EVENT,
    f'"}}\\n{EVENT}',
    f'x","event":"fenced","y":"{EVENT}',
    f"\x1b[2J\x1b]0;title\x07\b\b\t\x7f\u2028\u0085 {EVENT}",
    "\r" + EVENT,
    "<11>1 2026-01-01T00:00:00Z n9 metastack-agent - - - " + EVENT,
    "@cee: " + EVENT,
    '"' * 64_000,
    "\x01" * 64_000,
    "x" * 300_000 + EVENT,
    "%$!all-json% %msg% ${x} $!host",
)

NATIVE = """
import json, sys
from metastack.telemetry.journal import Journal
sender = Journal("metastack-agent")
for text in json.load(open(sys.argv[1])):
    sender.offer("error", "fenced", "", text.encode())
sys.stdin.read()
"""
"""It stays until the test has seen its lines: of a process that is gone journald cannot tell the unit."""


@contextmanager
def sent(folder: Path, command: Callable[..., tuple[str, ...]], said: list[str]) -> Iterator[None]:
    """Entries by the journal's own protocol, in the agent's name."""
    (folder / "said").write_text(json.dumps(said))
    words = command(sys.executable, "-c", NATIVE, str(folder / "said"))
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        yield
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forged")


@pytest.fixture(scope="module")
def certificates(folder: Path) -> Certificates:
    (folder / "pki").mkdir()
    return Certificates(folder / "pki")


@pytest.fixture
def host(tmp_path: Path, certificates: Certificates) -> Iterator[LogHost]:
    made = LogHost(
        tmp_path / "host",
        certificates.of(SubjectKind.SERVICE, "logs"),
        ["node.n1", "node.n2"],
        {"127.0.0.2": "n1", "127.0.0.3": "n2"},
    )
    made.start()
    yield made
    made.daemon.end()


@pytest.fixture
def node(tmp_path: Path, certificates: Certificates, host: LogHost) -> Iterator[LogNode]:
    made = LogNode(tmp_path / "n1", "n1", "127.0.0.2", host, certificates.of(SubjectKind.NODE, "n1"))
    made.start()
    made.forward()
    yield made
    made.stop()


def texts(host: LogHost, app: str, count: int) -> list[str]:
    """The texts of a program's lines, once a line ``end`` has come; each is text and nothing else."""
    until(f"the last line of {app}", lambda: any(_text(line) == "end" for line in _of(host, app)))
    found = _of(host, app)
    for line in found:
        assert set(line) <= {"time", "level", "app", "unit", "file", "message", "truncated", "host", "received"}
        assert line["host"] == "n1"
        assert len(_text(line)) <= 32_768
    assert [path.name for path in host.files.iterdir()] == ["n1.jsonl"]
    said = [_text(line) for line in found[:-1]]
    assert len(said) == count
    return said


def _of(host: LogHost, app: str) -> list[dict[str, object]]:
    return [line for line in host.lines("n1") if line["app"] == app]


def _text(line: Mapping[str, object]) -> str:
    return str(line["message"])


def test_a_guests_output_stays_text_of_its_file(host: LogHost, node: LogNode) -> None:
    log = Path(node.path("/var/log/libvirt/qemu/ms-default-evil.log"))
    with log.open("ab") as file:
        file.write(b"".join(text.encode() + b"\n" for text in HOSTILE) + b"\xff\xfe\xc0\xa2\xed\xa0\x80\nend\n")
    said = texts(host, "qemu", len(HOSTILE) + 1)
    assert said[0] == EVENT
    assert {line["file"] for line in _of(host, "qemu")} == {"/var/log/libvirt/qemu/ms-default-evil.log"}


def test_what_a_program_prints_in_our_unit_stays_text(host: LogHost, node: LogNode) -> None:
    printed = "\n".join(text.replace("\n", " ") for text in HOSTILE[:6]) + "\nend\n"
    command = node.in_unit("systemd-cat", "--identifier=librados", "cat")
    subprocess.run(command, input=printed.encode(), check=True, timeout=60)
    texts(host, "librados", 6)


def test_a_stranger_on_the_node_cannot_send_events(host: LogHost, node: LogNode, tmp_path: Path) -> None:
    # The journal's own protocol, the agent's name, and a unit that is none of ours.
    with sent(tmp_path, node.inside, [EVENT, "end"]):
        assert texts(host, "metastack-agent", 1) == [EVENT]


def test_hostile_values_of_an_event_stay_values(host: LogHost, node: LogNode, tmp_path: Path) -> None:
    events = [json.dumps({"event": "console", "vm": "default/x", "output": text[:8000]}) for text in HOSTILE]
    with sent(tmp_path, node.in_unit, events):
        until("all events", lambda: host.size("n1") >= len(events))
    lines = host.lines("n1")
    assert [line["output"] for line in lines] == [text[:8000] for text in HOSTILE]
    assert {(line["event"], line["vm"], line["host"]) for line in lines} == {("console", "default/x", "n1")}


class Relp:
    """A rogue node: RELP by hand, with a certificate that the log host accepts."""

    def __init__(self, host: LogHost, source: str, certificate: Mapping[str, str]) -> None:
        context = ssl.create_default_context(cafile=certificate["CA"])
        context.load_cert_chain(certificate["CERT"], certificate["KEY"])
        plain = socket.create_connection(("127.0.0.1", host.port), 10, (source, 0))
        self._socket = context.wrap_socket(plain, server_hostname="127.0.0.1")
        self._number = 0
        assert b"200" in self.send("open", b"relp_version=0\nrelp_software=rogue\ncommands=syslog")

    def send(self, command: str, data: bytes) -> bytes:
        self._number += 1
        self._socket.sendall(b"%d %s %d %s\n" % (self._number, command.encode(), len(data), data))
        answer = b""
        while not answer.endswith(b"\n"):
            more = self._socket.recv(4096)
            assert more, "the log host closed the connection"
            answer += more
        return answer

    def close(self) -> None:
        self._socket.close()


HEAD = b"<14>1 - - - - - - "
FORGED = (
    HEAD + b'{"host":"n1","event":"fenced"}',
    HEAD + b'{"host":"n1","host":"n1","claimed_host":"x","received":"1970-01-01T00:00:00Z"}',
    HEAD + b'{"event":"x"}\n{"host":"n1","event":"forged"}',
    HEAD + b'{"event":"x","n":"\n{\\"host\\":\\"n1\\"}\n"}',
    HEAD + b'{"host":{"deep":1},"received":[1]}',
    HEAD + b'{"a":' * 2000,
    HEAD + b'{"text":"\xff\xfe\xc0\xa2\xed\xa0\x80"}',
    HEAD + b'{"text":"\\ud800\\u0000\\u2028","":1,"a!b":2,"$":3}',
    HEAD + b'["n1"]',
    HEAD + b'{"text":"' + b"x" * 1_000_000 + b'"}',
    b"<11>1 2026-01-01T00:00:00Z n1 metastack-agent - - - not json",
    b"\0\n\n{}",
    b"<999>{",
    b"",
)


def test_a_rogue_node_writes_in_its_own_name_only(host: LogHost, certificates: Certificates) -> None:
    for payload in FORGED:
        relp = Relp(host, "127.0.0.3", certificates.of(SubjectKind.NODE, "n2"))
        try:
            relp.send("syslog", payload)
        except (AssertionError, OSError):
            pass  # refused: as good
        relp.close()
    relp = Relp(host, "127.0.0.3", certificates.of(SubjectKind.NODE, "n2"))
    relp.send("syslog", HEAD + b'{"event":"end"}')
    relp.close()
    assert [path.name for path in host.files.iterdir()] == ["n2.jsonl"]
    lines = host.lines("n2")
    assert lines[-1]["event"] == "end"
    assert {line["host"] for line in lines} == {"n2"}
    assert all(str(line["received"]).startswith("20") and len(str(line["received"])) == 32 for line in lines)
    assert len(FORGED) - 3 <= len(lines) <= len(FORGED) + 1
    assert lines[0]["claimed_host"] == "n1"
    assert sum("malformed" in line for line in lines) >= 4
