"""An agent of the release before and today's, side by side on one real etcd: an upgrade, node by node.

The old code comes out of the history; where that is not there (a shallow clone), the frozen codec of
``sim/older`` is what is left, and tests/sim and tests/unit/core/test_versions use it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from metastack.commands.cluster.upgrade import finish_upgrade
from metastack.commands.cluster.upgrade_views import understood
from metastack.commands.problem import Problem
from metastack.commands.reading import EVERYTHING, follow
from metastack.commands.request import Cluster, new_request
from metastack.commands.vm.change import NewVm, create_vm
from metastack.commands.vm.place import place_vm
from metastack.commands.vm.placement_options import PlacementOptions
from metastack.core.model import ClusterConfig, Image, ImageState, Phase, VmId
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import encode
from metastack.core.state.keys import DEFAULT_ROOT, Keys
from metastack.core.state.record_versions import LEVEL, settings_bytes
from metastack.core.transaction import Put, Transaction
from metastack.lab.dev.etcd import EtcdCluster
from metastack.lab.sim.engine.older_release import older
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore

HERE = Path(__file__).parents[3]
BEFORE = "62e792f"
"""The last commit that wrote records of level 1."""
KEYS = Keys(DEFAULT_ROOT)
IMAGE = "11111111-0000-4000-8000-000000000000"
WITHIN_S = 40.0

pytestmark = [pytest.mark.etcd, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def before() -> Iterator[Path]:
    """The source tree of the release before."""
    git = ["git", "-C", str(HERE)]
    there = subprocess.run([*git, "cat-file", "-e", f"{BEFORE}^{{commit}}"], capture_output=True, check=False)
    if there.returncode:
        pytest.skip(f"{BEFORE} is not in this clone's history: its agent cannot be run")
    folder = Path(tempfile.mkdtemp(prefix="ms-before-", dir="/tmp"))
    packed = subprocess.run([*git, "archive", BEFORE, "src", "tests"], capture_output=True, check=True)
    subprocess.run(["tar", "x", "-C", str(folder)], input=packed.stdout, check=True)
    yield folder
    shutil.rmtree(folder)


class Agents:
    """Agent processes by node."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self._endpoint, self._folder = endpoint, folder
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str, tree: Path) -> None:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        words = (str(tree), name, name[1:], self._endpoint, str(folder))
        env = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0", "PYTHONPATH": f"{tree}/src"}
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                str(Path(__file__).parent / "one_agent.py"),
                *words,
                stdout=log,
                stderr=log,
                env=env,
            )

    async def kill(self, name: str) -> None:
        process = self._running.pop(name)
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def stop(self, name: str) -> None:
        process = self._running.pop(name)
        process.terminate()
        async with asyncio.timeout(WITHIN_S):
            await process.wait()
        assert process.returncode == 0, self.log(name)

    async def close(self) -> None:
        for name in list(self._running):
            await self.kill(name)

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()[-4000:]


@pytest.fixture
async def etcd() -> AsyncIterator[EtcdCluster]:
    folder = Path(tempfile.mkdtemp(prefix="ms-mixed-", dir="/tmp"))
    cluster = EtcdCluster.local(folder)
    await cluster.start()
    yield cluster
    await cluster.kill()
    shutil.rmtree(folder)


class Rig:
    def __init__(self, cluster: Cluster, agents: Agents) -> None:
        self.cluster, self.agents = cluster, agents

    async def put(self, key: str, value: bytes) -> None:
        await self.cluster.store.commit(Transaction(name="test", guards=(), effects=(Put(key, value),)))

    async def until(self, what: str, true: Callable[[ClusterState], object]) -> None:
        try:
            async with asyncio.timeout(WITHIN_S), follow(self.cluster, KEYS.prefixes(EVERYTHING)) as follower:
                while not true(follower.world):
                    await follower.changed()
        except TimeoutError:
            logs = "\n".join(f"--- {name}\n{self.agents.log(name)}" for name in ("n1", "n2", "n3"))
            raise AssertionError(f"not within {WITHIN_S} s: {what}\n{logs}") from None

    async def running(self, name: str, node: str) -> None:
        def there(world: ClusterState) -> bool:
            status = world.status(VmId("default", name))
            said = status.record if status is not None else None
            return said is not None and (said.phase, said.node) == (Phase.RUNNING, node)

        await self.until(f"{name} runs on {node}", there)

    async def ready(self, *names: str) -> None:
        def all_ready(world: ClusterState) -> bool:
            found = [world.alive(name) for name in names]
            return all(one is not None and one.record is not None and one.record.ready for one in found)

        await self.until(f"{names} ready", all_ready)

    async def pin(self, name: str, node: str) -> None:
        await place_vm(self.cluster, new_request(), VmId("default", name), PlacementOptions(node=node))

    async def undisturbed(self, *names: str) -> list[tuple[str, int, int]]:
        """Node, session and epoch of some VMs, and how often any node was fenced."""
        async with follow(self.cluster, KEYS.prefixes(EVERYTHING)) as follower:
            claims = [follower.world.claim(VmId("default", name)) for name in names]
            fences = [(node, follower.world.fenced_through(node), 0) for node in follower.world.nodes()]
        return [(one.ok.node, one.ok.session, one.ok.epoch) for one in claims if one is not None] + fences

    async def readable(self) -> int:
        """Everything in etcd is read by the release before; how many records that are."""
        snapshot = await self.cluster.store.list(KEYS.prefix())
        assert [why for entry in snapshot.entries if (why := older(1).reads(KEYS, entry))] == []
        return len(snapshot.entries)


@pytest.fixture
async def rig(etcd: EtcdCluster, tmp_path: Path) -> AsyncIterator[Rig]:
    store = EtcdStore(StoreSettings(endpoints=etcd.endpoints))
    agents = Agents(etcd.endpoints[0], tmp_path)
    rig = Rig(Cluster(store, KEYS), agents)
    await rig.put(KEYS.cluster(), settings_bytes(ClusterConfig(lease_ttl_s=2, brake_percent=100)))
    await rig.put(
        KEYS.image("debian"),
        encode(Image(name="debian", uuid=IMAGE, state=ImageState.READY, size_bytes=1 << 20)),
    )
    yield rig
    await agents.close()
    await store.close()


def _plain() -> dict[str, str]:
    """The environment without a context that another test chose."""
    return {key: value for key, value in os.environ.items() if not key.startswith("METASTACK_")}


def old_status(tree: Path, endpoint: str) -> dict[str, object]:
    """What the CLI of the release before says."""
    done = subprocess.run(
        [sys.executable, "-m", "metastack.cli.main", "status", "-o", "json"],
        capture_output=True, text=True, check=False, timeout=60,
        env={**_plain(), "PYTHONPATH": f"{tree}/src", "METASTACK_ENDPOINTS": endpoint},
    )  # fmt: skip
    assert done.stdout, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_the_frozen_record_types_are_those_of_the_release_before(before: Path) -> None:
    made = subprocess.run(
        [sys.executable, str(HERE / "tests" / "golden" / "freeze.py")],
        capture_output=True, check=True, timeout=60, env={**os.environ, "PYTHONPATH": f"{before}/src"},
    )  # fmt: skip
    assert json.loads(made.stdout) == older(1).schema


async def test_a_cluster_is_upgraded_node_by_node(before: Path, rig: Rig, etcd: EtcdCluster) -> None:
    agents, endpoint = rig.agents, etcd.endpoints[0]
    await agents.start("n1", before)
    await agents.start("n2", HERE)
    await agents.start("n3", HERE)
    await rig.ready("n1", "n2", "n3")
    for number in (1, 2, 3):
        await create_vm(
            rig.cluster,
            new_request(),
            NewVm(vm=VmId("default", f"vm{number}"), image="debian", node=f"n{number}"),
        )
        await rig.running(f"vm{number}", f"n{number}")
    assert await rig.readable() > 10

    # A new agent fences an old one and takes over from it; the old one comes back and reads all of that.
    await agents.kill("n1")
    await rig.pin("vm1", "n2")
    await rig.running("vm1", "n2")
    await agents.start("n1", before)
    await rig.ready("n1", "n2", "n3")

    # And the other way round.
    await agents.kill("n2")
    await rig.pin("vm2", "n1")
    await rig.running("vm2", "n1")
    await rig.pin("vm1", "n3")
    await rig.running("vm1", "n3")
    await agents.start("n2", HERE)
    await rig.ready("n1", "n2", "n3")
    said = await asyncio.to_thread(old_status, before, endpoint)
    assert said["ok"], said
    assert await rig.readable() > 10

    with pytest.raises(Problem, match=r"n1: its agent .* reads records of level 1"):
        await finish_upgrade(rig.cluster, new_request())

    # n1 is upgraded too. Its guests here are of its process: the agent boots them again.
    await agents.stop("n1")
    await agents.start("n1", HERE)
    await rig.until("n1 is new", lambda world: understood(world, "n1") == LEVEL)
    await rig.ready("n1", "n2", "n3")
    await rig.running("vm2", "n1")
    assert await rig.readable() > 10
    assert (await finish_upgrade(rig.cluster, new_request())).done
    snapshot = await rig.cluster.store.list(KEYS.cluster())
    assert json.loads(snapshot.entries[0].value)["v"] == 3

    # Nodes go on; their next words are of the new level.
    def all_new(world: ClusterState) -> bool:
        alive = (world.alive(name) for name in ("n1", "n2", "n3"))
        return world.level == LEVEL and all(one is not None and one.record is not None for one in alive)

    await rig.until("the new level", all_new)
    await create_vm(rig.cluster, new_request(), NewVm(vm=VmId("default", "vm4"), image="debian", node="n3"))
    for name, node in (("vm1", "n3"), ("vm2", "n1"), ("vm3", "n3"), ("vm4", "n3")):
        await rig.running(name, node)

    # Somebody starts the old agent again. It cannot read the others' records, and disturbs nobody.
    before_that = await rig.undisturbed("vm1", "vm3", "vm4")
    await agents.stop("n1")
    await agents.start("n1", before)
    await rig.until("n1 is old again", lambda world: understood(world, "n1") == 1)
    await create_vm(rig.cluster, new_request(), NewVm(vm=VmId("default", "vm5"), image="debian", node="n2"))
    await rig.running("vm5", "n2")
    assert await rig.undisturbed("vm1", "vm3", "vm4") == before_that
