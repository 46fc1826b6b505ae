"""A real etcd, saved, written to, wiped and restored by command, under agents on machines in memory.

The machines and the pool are twins, so that who writes what is known at every moment; the etcd is not. With TLS
and rights each agent has its node's certificate, and each command that of the person or service who gives it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))

from cli_program import Program

from metastack.agent.agent import Agent
from metastack.agent.clock import Clock
from metastack.agent.session.state_files import StateFiles
from metastack.commands.cluster.restore import look_at_restore
from metastack.commands.cluster.status import cluster_view
from metastack.commands.reading import EVERYTHING, read_world
from metastack.commands.request import Cluster
from metastack.contexts import Context
from metastack.core.model import ClusterConfig, Image, ImageState, Nic, Power, Record, VmId, VmSpec
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys
from metastack.core.transaction import Put, Transaction
from metastack.hypervisor.twin.hypervisor import MemoryHypervisor
from metastack.lab.dev.etcd import EtcdCluster
from metastack.lab.dev.identities import ADMIN, Identities
from metastack.network.twin import MemoryNetwork
from metastack.pki.files import write_identity
from metastack.pki.folder import CaFolder
from metastack.pki.subject import SubjectKind, subject
from metastack.settings import StoreSettings
from metastack.storage.twin import MemoryPool, MemoryStorage
from metastack.store.etcd.store import EtcdStore

pytestmark = [pytest.mark.etcd, pytest.mark.proof]

KEYS = Keys("/restored")
ADMIN_USER, BACKUP_USER = f"operator.{ADMIN}", "service.backup"
IMAGE = "11111111-0000-4000-8000-000000000000"
SOON_S = 40.0


class Machine:
    def __init__(self, lab: Lab, number: int) -> None:
        self.lab, self.name, self.address = lab, f"n{number}", f"10.0.0.{number}"
        self.hypervisor = MemoryHypervisor(
            uuid=f"00000000-0000-4000-8000-{number:012d}", call_s=0.002, boot_s=0.05
        )
        self.agent: Agent | None = None
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        state_files = StateFiles(self.lab.folder / self.name)
        state_files.lock()
        state_files.node_uuid(f"uuid-of-{self.name}")
        ids = itertools.count()
        self.agent = Agent(
            name=self.name,
            keys=KEYS,
            store=EtcdStore(self.lab.reached_as(f"node.{self.name}")),
            storage=MemoryStorage(self.lab.pool, self.address),
            hypervisor=self.hypervisor,
            network=MemoryNetwork(),
            state_files=state_files,
            clock=Clock(lambda: 1e9, lambda: f"{self.name}{os.urandom(3).hex()}{next(ids):06d}"),
            addresses=(self.address,),
            address=self.address,
        )
        self._stop = asyncio.Event()
        self._task = self.lab.group.create_task(self.agent.run(self._stop))

    async def crash(self) -> None:
        assert self._task is not None and self.agent is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        self.agent.state_files.unlock()
        await self.agent.node.store.close()

    def runs(self) -> set[str]:
        return {domain.name for domain in self.hypervisor.active()}

    @property
    def ready(self) -> bool:
        return self.agent is not None and self.agent.node.session.ready

    @property
    def why(self) -> str:
        return self.agent.node.informer.etcd_history.why if self.agent is not None else ""


class Lab:
    def __init__(self, folder: Path, etcd: EtcdCluster, identities: Identities | None) -> None:
        self.folder, self.etcd, self.identities = folder, etcd, identities
        self.pool = MemoryPool(images={IMAGE: 512})
        self.machines = [Machine(self, number) for number in (1, 2, 3)]
        self.group: asyncio.TaskGroup
        self.store = EtcdStore(self.reached_as("root"))
        self.cluster = Cluster(self.store, KEYS)

    def reached_as(self, user: str) -> StoreSettings:
        if self.identities is not None:
            return self.identities.store(user, self.etcd.endpoints, KEYS.root)
        return StoreSettings(endpoints=self.etcd.endpoints, root=KEYS.root)

    async def command(self, user: str, *words: str) -> Any:
        """What a command of that user answers."""
        file = self.folder / f"{user}.toml"
        context = msgspec.to_builtins(Context(name="lab", store=self.reached_as(user)))
        context.pop("name")
        file.write_bytes(msgspec.toml.encode({"current": "lab", "contexts": {"lab": context}}))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("METASTACK_", "SUDO_"))}
        return (await Program({**kept, "METASTACK_CONFIG": str(file)})(*words, "-o", "json")).json()

    async def put(self, key: str, record: Record) -> None:
        await self.store.commit(Transaction(name="test", guards=(), effects=(Put(key, encode(record)),)))

    async def want(self, number: int) -> None:
        spec = VmSpec(
            project="default",
            name=f"vm{number}",
            uuid=f"{number:08d}-0000-4000-8000-00000000000a",
            image="tiny",
            image_uuid=IMAGE,
            volume_uuid=f"{number:08d}-0000-4000-8000-00000000000b",
            cpus=1,
            memory_mib=512,
            disk_bytes=1 << 20,
            power=Power.ON,
            nics=(Nic(bridge="br0", mac=f"52:54:00:00:00:0{number}"),),
        )
        await self.put(KEYS.vm_spec(spec.id), spec)

    def where(self, name: str) -> list[str]:
        found = [m.name for m in self.machines if name in m.runs()]
        assert len(found) <= 1, f"{name} runs on {found}"
        return found

    async def until(self, what: str, check: Callable[[], object], within_s: float = SOON_S) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        while not check():
            state = [(m.name, m.ready, sorted(m.runs()), m.why) for m in self.machines]
            assert loop.time() < begun_s + within_s, f"not within {within_s} s: {what}: {state}"
            await asyncio.sleep(0.02)

    async def problems(self, what: str, check: Callable[[list[str]], bool]) -> None:
        """Wait until `metastack status` says what it should."""
        found: list[str] = []
        begun_s = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < begun_s + SOON_S:
            found = cluster_view(await read_world(self.cluster, KEYS.prefixes(EVERYTHING))).problems
            if check(found):
                return
            await asyncio.sleep(0.05)
        pytest.fail(f"{what}: {found}")

    async def restore(self, backup: Path, token: str) -> None:
        """Stop etcd, wipe it, restore the file with the tool of its release, and start it again."""
        member = self.etcd.members[0]
        await self.etcd.kill()
        data = member.directory.absolute() / "data"
        shutil.rmtree(data)
        view = await self.command(
            ADMIN_USER,
            *("cluster", "restore", str(backup), "--data-dir", str(data)),
            *("--initial-cluster", f"{member.name}={member.peer_url}", *(("--token", token) if token else ())),
        )
        member.token = view["token"]
        await self.etcd.start()


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ms-rst-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def made_identities(folder: Path) -> Identities:
    """Of one member, three nodes, an admin, root, and the service that makes backups."""
    made = Identities(folder)
    address = "127.0.0.1"
    made.make({"e1": address}, {f"n{number}": address for number in (1, 2, 3)})
    ca = CaFolder(folder / "ca", lambda: datetime.now(UTC))
    issued = ca.issue(subject(SubjectKind.SERVICE, "backup"), [address])
    write_identity(folder / BACKUP_USER, BACKUP_USER, ca.authority.certificate, issued.certificate, issued.key)
    return made


@asynccontextmanager
async def running(folder: Path, secure: bool) -> AsyncIterator[Lab]:
    identities = made_identities(folder / "pki") if secure else None
    etcd = EtcdCluster.local(folder / "etcd", tls=identities.tls("e1") if identities is not None else None)
    await etcd.start()
    lab = Lab(folder, etcd, identities)
    if identities is not None:
        await asyncio.to_thread(identities.apply, etcd.endpoints, KEYS.root)
    try:
        await lab.put(KEYS.cluster(), ClusterConfig(lease_ttl_s=3, full_look_s=5))
        await lab.put(
            KEYS.image("tiny"), Image(name="tiny", uuid=IMAGE, state=ImageState.READY, size_bytes=512)
        )
        async with asyncio.TaskGroup() as group:
            lab.group = group
            for machine in lab.machines:
                machine.start()
            await lab.until("all ready", lambda: all(m.ready for m in lab.machines))
            yield lab
            for machine in lab.machines:
                if machine._task is not None:
                    machine._task.cancel()
    finally:
        for machine in lab.machines:
            if machine.agent is not None:
                machine.agent.state_files.unlock()
                await machine.agent.node.store.close()
        await lab.store.close()
        await etcd.kill()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS and rights"])
@pytest.mark.parametrize("same_token", [False, True], ids=["new cluster id", "same cluster id"])
async def test_a_restored_etcd_is_used_after_its_generation_was_raised(
    folder: Path, same_token: bool, secure: bool
) -> None:
    async with running(folder, secure) as lab:
        await lab.want(1)
        await lab.until("vm1 runs", lambda: lab.where("vm1"))
        before = await lab.store.list(KEYS.prefix())
        backup = folder / "backup.db"
        assert not (await lab.command(BACKUP_USER, "cluster", "backup", str(backup)))["trouble"]

        # After the backup: vm2 appears; vm1 dies with its node, moves to another one, and the node comes back.
        await lab.want(2)
        await lab.until("vm2 runs", lambda: lab.where("vm2"))
        first = next(m for m in lab.machines if m.name == lab.where("vm1")[0])
        await first.crash()
        first.hypervisor.power_cut()
        first.hypervisor.daemon_returns()
        await lab.until("vm1 moved", lambda: lab.where("vm1") not in ([], [first.name]))
        moved_to = lab.where("vm1")
        first.start()
        await lab.until("all ready again", lambda: all(m.ready for m in lab.machines))
        await lab.until("vm2 runs", lambda: lab.where("vm2"))
        vm2_on = lab.where("vm2")

        token = lab.etcd.members[0].token
        await lab.restore(backup, token if same_token else "")
        restored = await lab.store.list(KEYS.prefix())
        assert (restored.cluster_id == before.cluster_id) is same_token
        # Its revision says less: leases may end before it is read.
        assert KEYS.vm_spec(VmId("default", "vm2")) not in {entry.key for entry in restored.entries}

        await lab.until("everybody noticed", lambda: all(m.why and not m.ready for m in lab.machines))
        # Its agent forgets nothing by being killed; and revisions that grow prove nothing.
        await first.crash()
        for _ in range(300):
            await lab.put(KEYS.node_spec("nobody"), ClusterConfig())
        first.start()
        await lab.until("it notices again", lambda: bool(first.why))

        await lab.problems("all three say so", lambda p: sum("rejects this etcd" in one for one in p) == 3)
        assert (lab.where("vm1"), lab.where("vm2")) == (moved_to, vm2_on)  # nothing ended, nothing began

        plan = await look_at_restore(lab.cluster)
        assert plan.generation == 1
        assert plan.ends == [f"default/vm1 on {moved_to[0]}", f"default/vm2 on {vm2_on[0]}"]
        done = await lab.command(ADMIN_USER, "cluster", "restore", "--yes", "--reason", "a test")
        assert (done["generation"], done["ends"]) == (plan.generation, plan.ends)
        await lab.until("all ready", lambda: all(m.ready for m in lab.machines))
        assert all(m.agent is not None and m.agent.node.session.generation == 1 for m in lab.machines)
        await lab.until("vm1 runs", lambda: lab.where("vm1"))
        await lab.until("vm2 is gone: this etcd never heard of it", lambda: not lab.where("vm2"))
        assert len(lab.pool.disks) == 2  # its disk is not
        await lab.problems("status is fine", lambda p: not p)
