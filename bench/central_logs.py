"""Hosts for the central logs: real journald and rsyslogd, each node in a mount namespace of its own. Root only.

Owns: their processes, each ended by its pid. The configuration is that of deploy/rsyslog, with its placeholders
replaced. A node is told apart by the loopback address from which it sends.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from metastack.pki.files import certificate_pem, key_pem
from metastack.pki.folder import CaFolder
from metastack.pki.subject import SubjectKind, subject

TEMPLATES: Final = Path(__file__).parents[1] / "deploy" / "rsyslog"
PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
RSYSLOGD: Final = shutil.which("rsyslogd", path=PATH)
JOURNALD: Final = Path("/lib/systemd/systemd-journald")
RELP: Final = Path("/usr/lib/x86_64-linux-gnu/rsyslog/omrelp.so")

HOST_INIT: Final = """
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/log
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/log/journal /var/log/libvirt/qemu /var/log/ceph
printf '[Journal]\\nStorage=volatile\\nRateLimitBurst=0\\nRuntimeMaxUse=1G\\nReadKMsg=no\\n' \
  >/run/systemd/journald.conf.d/lab.conf
echo ready
exec sleep infinity
"""
"""A host's own /run and /var/log. Unit files switch the rate limit off, and they need systemd."""

JOURNALD_INIT: Final = 'echo 512 >/proc/sys/net/unix/max_dgram_qlen && exec "$0"'
"""systemd raises what a datagram socket holds from 10 to 512; here that is done in a network namespace."""

FEEDER: Final = """
import os, socket, sys, time
import structlog
from metastack.telemetry import journal, logs
count, rate, size = (int(word) for word in sys.argv[1:4])
# As systemd starts a unit: stderr is a stream to journald, and JOURNAL_STREAM names it.
stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
stream.connect("/run/systemd/journal/stdout")
stream.sendall(b"metastack-agent\\n\\n6\\n1\\n0\\n0\\n0\\n")
os.dup2(stream.fileno(), 2)
seen = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{seen.st_dev}:{seen.st_ino}"
logs.configure("auto", "info", "claims-to-be-another")
log, text, began_s = structlog.get_logger(), "x" * size, time.monotonic()
for n in range(count):
    log.info("counted", n=n, vm="default/web-1", text=text)
    if n % 50 == 49:
        time.sleep(max(0.0, began_s + n / rate - time.monotonic()))
    while logs._output.journal.queued > 5_000:
        time.sleep(0.01)
while logs._output.journal.queued:
    time.sleep(0.01)
print(count / (time.monotonic() - began_s))
"""


def missing() -> str:
    """The reason why this machine cannot run them; empty: it can."""
    if os.geteuid() != 0:
        return "needs root: journald runs in a mount namespace"
    if RSYSLOGD is None or not RELP.exists():
        return "rsyslogd with RELP is not installed (apt: rsyslog rsyslog-relp)"
    if not JOURNALD.exists():
        return f"{JOURNALD} is not there"
    return ""


def until(what: str, test: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait for another process, with a deadline."""
    end_s = time.monotonic() + within_s
    while not test():
        if time.monotonic() > end_s:
            raise TimeoutError(f"not within {within_s} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    """A port below the ephemeral ones."""
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port")


def render(template: str, values: Mapping[str, str]) -> str:
    """A template of deploy/rsyslog with each placeholder replaced."""
    text = (TEMPLATES / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


class Certificates:
    """A cluster's CA and what it issued."""

    def __init__(self, folder: Path, name: str = "lab") -> None:
        self.folder = folder
        self.ca = CaFolder.make(folder / "ca", name, lambda: datetime.now(UTC))

    def of(self, kind: SubjectKind, name: str) -> dict[str, str]:
        """The placeholders of a certificate that is made now."""
        made = self.ca.issue(subject(kind, name), [f"{name}.lab", "127.0.0.1"])
        assert made.key is not None
        base = self.folder / f"{kind}.{name}"
        base.with_suffix(base.suffix + ".crt").write_bytes(certificate_pem(made.certificate))
        base.with_suffix(base.suffix + ".key").write_bytes(key_pem(made.key))
        return {"CA": str(self.folder / "ca" / "ca.crt"), "CERT": f"{base}.crt", "KEY": f"{base}.key"}


class Daemon:
    """One process; what it prints is kept."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.said = name, folder / f"{name}.err"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *command: str) -> None:
        assert self.process is None
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=said)

    def ended(self) -> bool:
        """True once it has ended by itself."""
        return self.process is not None and self.process.poll() is not None

    def end(self, number: int = 15, within_s: float = 30.0) -> None:
        """Signal it and wait; what does not end in time is killed, and that is an error."""
        if self.process is None:
            return
        process, self.process = self.process, None
        process.send_signal(number)
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise TimeoutError(f"{self.name} did not end within {within_s} s of signal {number}") from None


class LogHost:
    """The log host's rsyslogd."""

    def __init__(
        self, folder: Path, certificate: Mapping[str, str], peers: list[str], hosts: dict[str, str]
    ) -> None:
        folder.mkdir()
        self.folder, self.port, self.files = folder, free_port(), folder / "logs"
        (folder / "work").mkdir()
        self.conf = folder / "log-server.conf"
        table = [{"index": address, "value": name} for address, name in hosts.items()]
        known = {"version": 1, "nomatch": "", "type": "string", "table": table}
        (folder / "hosts.json").write_text(json.dumps(known))
        self.values = {
            "LISTEN": "127.0.0.1",
            "LOG_PORT": str(self.port),
            "PEERS": ", ".join(f'"{peer}"' for peer in peers),
            "HOSTS": str(folder / "hosts.json"),
            "LOG_DIR": str(self.files),
            "WORK_DIR": str(folder / "work"),
            **certificate,
        }
        self.daemon = Daemon("loghost", folder)

    def start(self, **certificate: str) -> None:
        """Start it, with another certificate if one is given."""
        assert RSYSLOGD is not None
        self.conf.write_text(render("log-server.conf", self.values | certificate))
        self.daemon.start(RSYSLOGD, "-n", "-f", str(self.conf), "-i", "NONE")
        until(f"the log host listens; it says: {self.said()}", self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def said(self) -> str:
        return self.daemon.said.read_text() if self.daemon.said.exists() else ""

    def size(self, host: str) -> int:
        """Lines in a host's file, without reading what they say."""
        path = self.files / f"{host}.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def lines(self, host: str) -> list[dict[str, Any]]:
        """A host's lines; each must be one JSON object, and all of the file valid UTF-8."""
        path = self.files / f"{host}.jsonl"
        text = path.read_bytes().decode() if path.exists() else ""
        found = [json.loads(line) for line in text[: text.rfind("\n") + 1].split("\n")[:-1]]
        assert all(isinstance(line, dict) for line in found)
        return found

    def numbers(self, host: str) -> list[int]:
        return [line["n"] for line in self.lines(host) if line.get("event") == "counted"]


class LogNode:
    """A node: a mount namespace with a journald, the forwarder, and what a unit of ours prints."""

    def __init__(
        self, folder: Path, name: str, source: str, host: LogHost, certificate: Mapping[str, str], **more: str
    ) -> None:
        folder.mkdir()
        self.folder, self.name, self.queue = folder, name, folder / "queue"
        self.queue.mkdir()
        values = {
            "LOG_HOST": "127.0.0.1",
            "LOG_PORT": str(host.port),
            "LOG_NAME": "service.logs",
            "QUEUE_DIR": str(self.queue),
            "QUEUE_SIZE": "1g",
            "SOURCE_IP": source,
            **certificate,
            **more,
        }
        self.conf = folder / "log-forwarder.conf"
        self.conf.write_text(render("log-forwarder.conf", values))
        self.unit = _cgroups() / f"lab{os.getpid()}{name}.slice" / "metastack-agent.service"
        self.feeders: list[subprocess.Popen[str]] = []
        self.init = Daemon("init", folder)
        self.journald = Daemon("journald", folder)
        self.forwarder = Daemon("forwarder", folder)

    def start(self) -> None:
        """The host and its journald; the forwarder by itself."""
        self.init.start("unshare", "--mount", "--propagation", "private", "sh", "-c", HOST_INIT)
        until(f"namespace of {self.name}", lambda: "ready" in self.init.said.read_text())
        self.journald.start(*self.inside("unshare", "--net", "sh", "-c", JOURNALD_INIT, str(JOURNALD)))
        until("journald's socket", lambda: Path(self.path("/run/systemd/journal/socket")).exists())
        self.unit.mkdir(parents=True)

    def path(self, inside: str) -> str:
        assert self.init.process is not None
        return f"/proc/{self.init.process.pid}/root{inside}"

    def inside(self, *command: str) -> tuple[str, ...]:
        assert self.init.process is not None
        return ("nsenter", "-m", "-t", str(self.init.process.pid), *command)

    def forward(self) -> None:
        assert RSYSLOGD is not None
        self.forwarder.start(*self.inside(RSYSLOGD, "-n", "-f", str(self.conf), "-i", "NONE"))
        # Lines from before it has opened the journal would be none of its business.
        marker = f"forwarder of {self.name} is there"
        opened = [f"/proc/{self.forwarder.process.pid}/fd"] if self.forwarder.process else []
        until(marker, lambda: any("journal" in target for target in _targets(opened)))

    def said(self) -> str:
        return self.forwarder.said.read_text() if self.forwarder.said.exists() else ""

    def queued_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.queue.glob("queue.0*"))

    def in_unit(self, *command: str) -> tuple[str, ...]:
        """A command that runs in this node's metastack-agent.service, as journald sees it."""
        join = 'echo $$ >"$0" && exec "$@"'
        return self.inside("sh", "-c", join, str(self.unit / "cgroup.procs"), *command)

    def feed(self, count: int, rate: int = 5_000, size: int = 200) -> subprocess.Popen[str]:
        """Log events as the agent does, at a rate; its output is the rate that it reached."""
        # In a file, as an agent is: journald keeps each process's command line, and compresses a long one.
        script = self.folder / "feeder.py"
        script.write_text(FEEDER)
        command = self.in_unit(sys.executable, str(script), str(count), str(rate), str(size))
        self.feeders.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return self.feeders[-1]

    def stop(self) -> None:
        self.forwarder.end()
        self.journald.end()
        self.init.end(9)
        for folder in (self.unit, self.unit.parent):
            if folder.exists():
                folder.rmdir()


def _targets(folders: list[str]) -> Iterator[str]:
    for folder in folders:
        for name in os.listdir(folder):
            try:
                yield os.readlink(f"{folder}/{name}")
            except FileNotFoundError:
                continue


def _cgroups() -> Path:
    """The hierarchy from which journald reads a process's unit."""
    top = Path("/sys/fs/cgroup")
    return top if (top / "cgroup.procs").exists() else top / "unified"
