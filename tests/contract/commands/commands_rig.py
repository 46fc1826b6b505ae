"""A cluster for tests of commands: a store, and the hands of agents that write what agents would write."""

from __future__ import annotations

from metastack.commands.request import Cluster, Request, new_request
from metastack.core.model import (
    Claim,
    Event,
    Halt,
    Image,
    ImageState,
    NodeAlive,
    NodeFacts,
    Phase,
    Record,
    Resources,
    VmId,
    VmSpec,
    VmStatus,
    Volume,
)
from metastack.core.state.codec import decode, encode
from metastack.core.state.keys import Kind
from metastack.core.state.record_versions import LEVEL
from metastack.core.transaction import Committed, Delete, Put, Transaction

HELLO = VmId("default", "hello")


class Rig:
    """What a test does to a cluster besides giving commands."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.keys = cluster.keys
        self.store = cluster.store

    async def write(self, *effects: Put | Delete, lease: int = 0) -> int:
        outcome = await self.store.commit(Transaction(name="test", guards=(), effects=effects, lease=lease))
        assert isinstance(outcome, Committed)
        return outcome.revision

    async def put(self, key: str, record: Record) -> int:
        return await self.write(Put(key, encode(record)))

    async def image(self, name: str = "tiny", size_bytes: int = 36 << 20, uuid: str = "") -> Image:
        image = Image(name=name, uuid=uuid or f"uuid-{name}", state=ImageState.READY, size_bytes=size_bytes)
        await self.put(self.keys.image(name), image)
        return image

    async def node(self, name: str, memory_mib: int = 8192, cpus: float = 4, ready: bool = True) -> int:
        """A node in a session of its own; returns the session."""
        await self.put(self.keys.node_facts(name), NodeFacts(name=name, uuid=f"uuid-{name}"))
        lease = await self.store.grant(60)
        alive = NodeAlive(
            name=name,
            ready=ready,
            record_version=LEVEL,
            capacity=Resources(cpus=cpus, memory_mib=memory_mib),
            console="127.0.0.1:1",
            bridges=("br0",),
            since="2026-01-01T00:00:00Z",
            hypervisor="qemu",
        )
        await self.write(
            Delete(self.keys.node_alive(name)),
        )
        return await self.write(Put(self.keys.node_alive(name), encode(alive), leased=True), lease=lease.id)

    async def lose(self, name: str) -> None:
        """The node's lease ends."""
        await self.write(Delete(self.keys.node_alive(name)))

    async def spec(self, vm: VmId = HELLO) -> VmSpec:
        entry = await self.store.get(self.keys.vm_spec(vm))
        assert entry is not None
        return decode(VmSpec, entry.value)

    async def claim(
        self, node: str, session: int, vm: VmId = HELLO, phase: Phase | None = Phase.RUNNING
    ) -> None:
        """The node takes the VM, and with a phase says so."""
        spec = await self.spec(vm)
        claim = Claim(
            node=node, session=session, uuid=spec.uuid, volume_uuid=spec.volume_uuid, claim_id="c" + spec.uuid
        )
        volume = Volume(
            uuid=spec.volume_uuid,
            project=vm.project,
            vm=vm.name,
            vm_uuid=spec.uuid,
            size_bytes=spec.disk_bytes,
            image_uuid=spec.image_uuid,
        )
        await self.write(
            Put(self.keys.claim(vm), encode(claim)),
            Put(self.keys.volume(vm.project, spec.volume_uuid), encode(volume)),
        )
        if phase is not None:
            await self.status(node, session, phase, vm)

    async def status(
        self, node: str, session: int, phase: Phase, vm: VmId = HELLO, message: str = "", **more: object
    ) -> None:
        spec = await self.spec(vm)
        status = VmStatus(
            uuid=spec.uuid,
            phase=phase,
            node=node,
            session=session,
            epoch=0,
            run=spec.run,
            message=message,
            ips=("10.0.0.9",),
            since="2026-01-02T03:04:05Z",
            **more,  # type: ignore[arg-type]
        )
        await self.put(self.keys.vm_status(vm), status)

    async def release(self, vm: VmId = HELLO, volume_uuid: str = "") -> None:
        effects = [Delete(self.keys.vm_status(vm)), Delete(self.keys.claim(vm))]
        if volume_uuid:
            effects.append(Delete(self.keys.volume(vm.project, volume_uuid)))
        await self.write(*effects)

    async def halt(self, vm: VmId = HELLO) -> None:
        spec = await self.spec(vm)
        await self.put(
            self.keys.halt(vm), Halt(uuid=spec.uuid, run=spec.run, at="2026-01-03T00:00:00Z", node="n1")
        )

    async def events(self) -> list[Event]:
        snapshot = await self.store.list(self.keys.prefix(Kind.EVENT))
        ordered = sorted(snapshot.entries, key=lambda entry: entry.mod_revision)
        return [decode(Event, entry.value) for entry in ordered]

    async def history(self, vm: VmId = HELLO) -> list[VmSpec]:
        snapshot = await self.store.list(self.keys.history_prefix(vm))
        return [decode(VmSpec, entry.value) for entry in snapshot.entries]


def request(reason: str = "") -> Request:
    return new_request(reason, by="tester@here")


class Racing:
    """A store in front of another: before one commit, somebody else is faster. Everything else passes."""

    def __init__(self, store: object, rival: object, times: int = 1) -> None:
        self._store = store
        self._rival = rival
        self.times = times

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def commit(self, change: Transaction) -> object:
        if self.times:
            self.times -= 1
            await self._rival()  # type: ignore[operator]
        return await self._store.commit(change)  # type: ignore[attr-defined]
