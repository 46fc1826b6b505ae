"""Start real etcd members: the one-machine cluster's, and those of the tests.

Owns: the command line of one member, its process (by pid), and when it counts as ready.
Refuses: to touch a process that it did not start, and data folders that it was not given.
Rule: every member also listens on a unix socket in its own folder, so whoever sees the folder can reach it
from any network namespace. etcd 3.4 takes no absolute socket path: ``unix://NAME:NUMBER`` is the file
``NAME:NUMBER`` in its working folder, and ``unix:/folder/NAME:NUMBER`` is what gRPC connects to.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .proc import stands_still, wait_for

SOCKET_NAME: Final = "client.sock:0"
TLS_SOCKET_NAME: Final = "tls.sock:0"
"""The same with TLS, where the member has it. With rights on, the plain one answers health checks only."""
SOCKET_PATH_BYTES: Final = 107
"""What fits in ``sockaddr_un``."""
READY_TIMEOUT_S: Final = 30.0
PORTS: Final = range(20_000, 32_000)
"""Below 32768: the kernel takes its ephemeral ports from there on."""


class EtcdFailed(Exception):
    """A member did not come up; the message ends with the last lines of its log."""


@dataclass(frozen=True, kw_only=True)
class EtcdTls:
    """Files with which a member serves its TCP clients."""

    cert: Path
    key: Path
    client_ca: Path | None = None
    """Set: clients must show a certificate of this authority."""


@dataclass(kw_only=True)
class EtcdMember:
    """One etcd process: everything that its command line needs, and its life."""

    name: str
    directory: Path
    """Its own folder: data, log and socket; created when absent, private to the user."""
    host: str = "127.0.0.1"
    client_port: int
    peer_port: int
    peers: Mapping[str, str] = field(default_factory=dict)
    """Name to peer URL of every member; empty: alone."""
    data_dir: Path | None = None
    """Default: ``data`` in the member's folder."""
    argv_prefix: Sequence[str] = ()
    """Such as ``("ip", "netns", "exec", NS)``: must exec, so that the pid stays."""
    tls: EtcdTls | None = None
    heartbeat_ms: int = 100
    election_ms: int = 1000
    quota_bytes: int = 0
    """0: etcd's default, 2 GiB."""
    token: str = "metastack"
    extra: Sequence[str] = ()
    binary: str = "etcd"
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def client_url(self) -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{self.host}:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://{self.host}:{self.peer_port}"

    @property
    def socket_path(self) -> Path:
        return self.directory.absolute() / SOCKET_NAME

    @property
    def socket_endpoint(self) -> str:
        """The member as an endpoint of :class:`metastack.settings.StoreSettings`, over its unix socket."""
        return f"unix:{self.socket_path}"

    @property
    def tls_socket_path(self) -> Path:
        return self.directory.absolute() / TLS_SOCKET_NAME

    @property
    def tls_socket_endpoint(self) -> str:
        """The same with TLS; only for a member that has it."""
        return f"unixs:{self.tls_socket_path}"

    @property
    def log_path(self) -> Path:
        return self.directory / "etcd.log"

    @property
    def pid(self) -> int:
        """0 when it does not run, or was not started by this object."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def argv(self) -> list[str]:
        """The whole command line; run it with the member's folder as working folder."""
        peers = self.peers or {self.name: self.peer_url}
        secure = f",unixs://{TLS_SOCKET_NAME}" if self.tls else ""
        argv = [
            *self.argv_prefix,
            self.binary,
            f"--name={self.name}",
            f"--data-dir={self.data_dir or self.directory.absolute() / 'data'}",
            f"--listen-client-urls={self.client_url},unix://{SOCKET_NAME}{secure}",
            f"--advertise-client-urls={self.client_url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={','.join(f'{name}={url}' for name, url in peers.items())}",
            f"--initial-cluster-token={self.token}",
            f"--heartbeat-interval={self.heartbeat_ms}",
            f"--election-timeout={self.election_ms}",
            "--logger=zap",
            "--log-outputs=stderr",
        ]
        if self.quota_bytes:
            argv.append(f"--quota-backend-bytes={self.quota_bytes}")
        if self.tls:
            argv += [f"--cert-file={self.tls.cert}", f"--key-file={self.tls.key}"]
            if self.tls.client_ca:
                argv += ["--client-cert-auth", f"--trusted-ca-file={self.tls.client_ca}"]
        return [*argv, *self.extra]

    def spawn(self) -> int:
        """Start the process without waiting for it; its pid."""
        if self.pid:
            raise EtcdFailed(f"{self.name} runs already, pid {self.pid}")
        if len(os.fsencode(self.socket_path)) > SOCKET_PATH_BYTES:
            raise EtcdFailed(f"{self.socket_path}: longer than a socket's path may be, use a shorter folder")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        # etcd refuses to start over the socket of one that was killed; its data folder has a lock.
        for path in (self.socket_path, self.tls_socket_path):
            path.unlink(missing_ok=True)
        # etcd reads every flag from ETCD_* too, and refuses some mixtures.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD_")}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv(),
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self._process.pid

    async def start(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start, and wait until the member serves (with more members: until they have a leader)."""
        self.spawn()
        await self.wait_ready(timeout_s)

    async def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait for a healthy answer over the socket; raises EtcdFailed with the end of the log."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while not await self.healthy():
            if self._process is not None and self._process.poll() is not None:
                raise EtcdFailed(f"{self.name} ended with {self._process.returncode}\n{self.log_tail()}")
            if loop.time() > deadline_s:
                raise EtcdFailed(f"{self.name} not ready after {timeout_s:g} s\n{self.log_tail()}")
            await asyncio.sleep(0.05)

    async def healthy(self, timeout_s: float = 2.0) -> bool:
        """Whether the member answers a linearizable read right now (``/health``)."""
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_unix_connection(str(self.socket_path))
                try:
                    writer.write(b"GET /health HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n")
                    await writer.drain()
                    answer = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return b'"health":"true"' in answer

    async def stop(self, timeout_s: float = 10.0) -> None:
        """End it gracefully, by force after the timeout; not running is fine."""
        if self.pid:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            if not await self._ended(timeout_s):
                await self.kill()
        self._process = None

    async def kill(self) -> None:
        """A crash: SIGKILL; gone when it returns."""
        if self.pid:
            self._signal(signal.SIGKILL)
            if not await self._ended(30.0):
                raise EtcdFailed(f"{self.name}, pid {self.pid}, survives SIGKILL")
        self._process = None

    def freeze(self) -> None:
        """Stop the process where it stands (SIGSTOP): connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)
        # Its threads stop one after the other: on a loaded machine one was seen to commit after the signal.
        wait_for(lambda: stands_still(self.pid), 5.0, lambda: f"etcd {self.pid} did not stop", every_s=0.001)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def detach(self) -> int:
        """Forget the process and let it live on; its pid, for its next owner."""
        pid = self.pid
        if self._process is not None:
            # Popen warns when it is collected while the child runs: here that is the intention.
            self._process.returncode = 0
            self._process = None
        return pid

    def log_tail(self, lines: int = 12) -> str:
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise EtcdFailed(f"{self.name} does not run")
        self._process.send_signal(number)  # Polls first: never hits a pid that was given to somebody else.

    async def _ended(self, timeout_s: float) -> bool:
        assert self._process is not None
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while self._process.poll() is None:
            if loop.time() > deadline_s:
                return False
            await asyncio.sleep(0.01)
        return True


class EtcdCluster:
    """One or three members (or any number that you describe yourself)."""

    def __init__(self, members: Sequence[EtcdMember]) -> None:
        self.members = list(members)
        peers = {m.name: m.peer_url for m in self.members}
        for m in self.members:
            m.peers = peers

    @classmethod
    def local(
        cls,
        directory: Path,
        size: int = 1,
        *,
        tls: EtcdTls | None = None,
        heartbeat_ms: int = 100,
        election_ms: int = 1000,
        quota_bytes: int = 0,
        argv_prefix: Sequence[str] = (),
        extra: Sequence[str] = (),
    ) -> EtcdCluster:
        """Members e1, e2, … on free loopback ports, each in its own folder under ``directory``."""
        ports = free_ports(2 * size)
        return cls(
            [
                EtcdMember(
                    name=f"e{i + 1}",
                    directory=directory / f"e{i + 1}",
                    client_port=ports[2 * i],
                    peer_port=ports[2 * i + 1],
                    token=f"metastack-{ports[0]}",
                    tls=tls,
                    heartbeat_ms=heartbeat_ms,
                    election_ms=election_ms,
                    quota_bytes=quota_bytes,
                    argv_prefix=argv_prefix,
                    extra=extra,
                )
                for i in range(size)
            ]
        )

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(m.client_url for m in self.members)

    @property
    def tls_socket_endpoints(self) -> tuple[str, ...]:
        return tuple(m.tls_socket_endpoint for m in self.members)

    @property
    def socket_endpoints(self) -> tuple[str, ...]:
        return tuple(m.socket_endpoint for m in self.members)

    def member(self, name: str) -> EtcdMember:
        return next(m for m in self.members if m.name == name)

    async def start(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start every member and wait until all serve; on failure nothing is left running."""
        try:
            for m in self.members:
                m.spawn()
            for m in self.members:
                await m.wait_ready(timeout_s)
        except BaseException:
            await self.kill()
            raise

    async def stop(self, timeout_s: float = 3.0) -> None:
        """End every member; the last ones cannot hand leadership over and are then ended by force.

        Safety: etcd writes its log ahead and syncs it before it answers, so force loses nothing.
        """
        await asyncio.gather(*(m.stop(timeout_s) for m in self.members))

    async def kill(self) -> None:
        await asyncio.gather(*(m.kill() for m in self.members))


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody holds at this moment."""
    found: list[int] = []
    # SystemRandom: seeded runs side by side must not pick the same ports.
    for port in random.SystemRandom().sample(PORTS, 2000):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise EtcdFailed(f"no {count} free ports between {PORTS.start} and {PORTS.stop} on {host}")
