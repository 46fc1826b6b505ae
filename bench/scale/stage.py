"""The stage of the real-etcd benches: one etcd, its proxy, and processes that do what they are told.

Owns: everything that is started, by pid, and its end. Refuses: measuring.
Rule: etcd's data lies in memory where the machine has a tmpfs, for baseline and agents alike, and the record
says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from bench.harness import TOP
from bench.scale import load
from metastack.core.protocol.guards import OwnSession
from metastack.core.transaction import Committed, Transaction
from metastack.lab.dev.etcd import EtcdCluster, free_ports
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore

BYSTANDERS = 20
LEASE_S = 3600
SHM = Path("/dev/shm")
DIE_WITH_ME = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: a bench that is killed leaves nothing running."""


class Process:
    """One worker."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, do: str, **more: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"worker {self.pid} ended: {_tail(self.log)}")
        return json.loads(line)  # type: ignore[no-any-return]

    log = ""
    _meant = False

    async def end(self) -> None:
        self._meant = True
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def watched(self) -> None:
        """Raise when it ends by itself: what is measured would be waited for for ever."""
        await self._process.wait()
        if not self._meant:
            raise RuntimeError(f"worker {self.pid} ended: {_tail(self.log)}")


def _tail(path: str) -> str:
    return Path(path).read_text()[-2000:]


class Stage:
    """etcd and whoever uses it."""

    def __init__(self, folder: Path, cluster: EtcdCluster, group: asyncio.TaskGroup) -> None:
        self.folder, self.cluster, self._group = folder, cluster, group
        self.endpoint = cluster.endpoints[0]
        self.store = EtcdStore(StoreSettings(endpoints=(self.endpoint,)), total_timeout_s=60)
        self.workers: list[Process] = []

    @property
    def etcd_pid(self) -> int:
        return self.cluster.members[0].pid

    async def write(self, changes: Sequence[Transaction], at_once: int = 8) -> list[int]:
        """Commit them all, several at a time; the revisions."""
        revisions = [0] * len(changes)
        todo = iter(list(enumerate(changes)))

        async def work() -> None:
            for at, change in todo:
                outcome = await self.store.commit(change)
                if not isinstance(outcome, Committed):
                    raise RuntimeError(f"{change.name}: a compare failed")
                revisions[at] = outcome.revision

        await asyncio.gather(*(work() for _ in range(at_once)))
        return revisions

    async def nodes(self, names: Sequence[str], *, cordoned: bool) -> list[OwnSession]:
        """Nodes without agents; who they are."""
        lease = await self.store.grant(LEASE_S)
        await self.write(load.nodes(names, lease.id, cordoned=cordoned))
        snapshot = await self.store.list(
            *(load.KEYS.node_alive(name) for name in names[:1]), "/metastack/actual/nodes/"
        )
        created = {entry.key: entry.create_revision for entry in snapshot.entries}
        return [OwnSession(node=n, session=created[load.KEYS.node_alive(n)], lease=lease.id) for n in names]

    async def settle(self, vms: int, **settings: object) -> None:
        """A cluster with so many VMs on nodes that take no others."""
        await self.write([load.config(**settings)])
        at = await self.nodes([load.bystander(n) for n in range(BYSTANDERS)], cordoned=True)
        await self.write(load.settled(range(vms), at))

    async def worker(self) -> Process:
        """One more process."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.scale.worker", str(self.folder / f"w{len(self.workers)}"),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
                cwd=TOP, limit=1 << 24,
            )  # fmt: skip
        worker = Process(process)
        worker.log = str(log)
        self.workers.append(worker)
        self._group.create_task(worker.watched())
        return worker

    async def each(self, do: str, **more: Any) -> list[dict[str, Any]]:
        """The same of every worker, at the same time."""
        return list(await asyncio.gather(*(worker.ask(do, **more) for worker in self.workers)))

    @contextlib.asynccontextmanager
    async def proxy(self) -> AsyncIterator[tuple[str, int]]:
        """etcd's own gRPC proxy: its endpoint and pid."""
        port = free_ports(1)[0]
        with (self.folder / "proxy.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: ASYNC220 - only starts
                [*DIE_WITH_ME, "etcd", "grpc-proxy", "start", f"--endpoints={self.endpoint.removeprefix('http://')}",
                 f"--listen-addr=127.0.0.1:{port}", f"--data-dir={self.folder / 'proxy'}"],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={k: v for k, v in os.environ.items() if not k.startswith("ETCD_")},
            )  # fmt: skip
        try:
            for _ in range(200):
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                break
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """A fresh etcd in memory."""
    folder = Path(tempfile.mkdtemp(prefix="msb", dir=_in_memory()))
    cluster = EtcdCluster.local(folder, argv_prefix=DIE_WITH_ME, extra=("--snapshot-count=100000",))
    async with asyncio.TaskGroup() as group:
        one = Stage(folder, cluster, group)
        try:
            await cluster.start()
            yield one
        finally:
            try:
                for worker in one.workers:
                    await worker.end()
                await one.store.close()
            finally:
                await cluster.kill()
                shutil.rmtree(folder, ignore_errors=True)


def _in_memory() -> Path | None:
    return SHM if SHM.is_dir() else None


def about() -> dict[str, Any]:
    """What the record says of the stage."""
    version = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "etcd": version.splitlines()[0],
        "etcd_data": "tmpfs, as for the baseline: no disk is waited for" if _in_memory() else "disk",
        "members": 1,
        "transport": "loopback, plaintext",
    }


def cpu_s(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
