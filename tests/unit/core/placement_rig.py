"""Clusters for tests of placement: records in a world, changed one event at a time."""

from __future__ import annotations

from metastack.core.model import Claim, NodeAlive, NodeSpec, Record, Resources, VmId, VmSpec
from metastack.core.placement import PlacementEngine, explain
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys, ParsedKey
from metastack.core.transaction import Batch, Entry, KeyEvent, Snapshot

KEYS = Keys()


def spec(name: str, **more: object) -> VmSpec:
    fields: dict[str, object] = dict(
        project="default", name=name, uuid=f"uuid-{name}", image="i", image_uuid="i", volume_uuid=f"v-{name}",
        cpus=1, memory_mib=512, disk_bytes=1,
    )  # fmt: skip
    return VmSpec(**{**fields, **more})  # type: ignore[arg-type]


class Cluster:
    """A world and the engine that follows it."""

    def __init__(self) -> None:
        self.world = ClusterState(KEYS)
        self.world.load(Snapshot(1, ()))
        self.engine = PlacementEngine(self.world)
        self.touched: list[ParsedKey] = []
        """Every key that an event touched: what another engine is told in one batch."""
        self._created: dict[str, int] = {}

    def put(self, key: str, record: Record) -> None:
        revision = self.world.revision + 1
        created = self._created.setdefault(key, revision)
        self._event(KeyEvent(key, revision, Entry(key, encode(record), revision, created, 1)))

    def delete(self, key: str) -> None:
        self._created.pop(key, None)
        self._event(KeyEvent(key, self.world.revision + 1, None))

    def _event(self, event: KeyEvent) -> None:
        touched = self.world.apply(Batch(event.revision, (event,)))
        self.touched += touched
        self.engine.update(sorted(touched, key=lambda key: (key.kind, key.names)))

    def node(self, name: str, cpus: float = 4, memory_mib: int = 5120, **more: object) -> None:
        fields: dict[str, object] = dict(
            name=name, ready=True, capacity=Resources(cpus=cpus, memory_mib=memory_mib), bridges=("br0",)
        )
        self.put(KEYS.node_alive(name), NodeAlive(**{**fields, **more}))  # type: ignore[arg-type]

    def wish(self, name: str, **more: object) -> None:
        self.put(KEYS.node_spec(name), NodeSpec(**more))  # type: ignore[arg-type]

    def want(self, name: str, **more: object) -> None:
        self.put(KEYS.vm_spec(VmId("default", name)), spec(name, **more))

    def claim(self, name: str, node: str) -> None:
        vm = VmId("default", name)
        claim = Claim(node=node, session=1 << 40, uuid=f"uuid-{name}", volume_uuid=f"v-{name}", claim_id="c")
        self.put(KEYS.claim(vm), claim)

    def heads(self) -> dict[str, tuple[str, ...]]:
        return {vm.name: wait.head for vm, wait in sorted(self.engine.waiting.items())}

    def claim_all(self) -> dict[str, str]:
        """Everybody first in line takes what is theirs, until nothing moves."""
        placed: dict[str, str] = {}
        while True:
            first = [(vm.name, wait.head[0]) for vm, wait in self.engine.waiting.items() if wait.head]
            if not first:
                return placed
            for name, node in first:
                self.claim(name, node)
                placed[name] = node


def zoned(zones: str = "aabbcc", **more: object) -> Cluster:
    found = Cluster()
    for n, zone in enumerate(zones):
        found.node(f"n{n}", **more)  # type: ignore[arg-type]
        found.wish(f"n{n}", labels={"zone": zone, "disk": "ssd" if n % 2 else "hdd", "rank": str(n)})
    return found


def reasons(found: Cluster, name: str) -> dict[str, str]:
    wanted = found.world.spec(VmId("default", name))
    assert wanted is not None and wanted.record is not None
    return {v.node: "; ".join(v.reasons) for v in explain(found.engine, wanted.record)}
