"""Turns over a board that is made anew: what was waiting then may be gone."""

from __future__ import annotations

from metastack.agent.turns import Turns
from metastack.core.change import Batch, Entry, KeyEvent, Snapshot
from metastack.core.codec import encode
from metastack.core.keys import Keys, ParsedKey
from metastack.core.model import ClusterConfig, NodeAlive, NodeFacts, Record, Resources, VmId, VmSpec
from metastack.core.world import World

KEYS = Keys()
VM = VmId("default", "vm1")


class _Cluster:
    """Nodes with room, a VM that waits, and the turns of n2."""

    def __init__(self) -> None:
        self.world, self.now_s = World(KEYS), 0.0
        self.world.load(Snapshot(1, ()))
        self.turns = Turns(self.world, "n2", lambda: self.now_s)
        room = Resources(cpus=4, memory_mib=4096)
        for name in ("n1", "n2"):
            alive = NodeAlive(name=name, ready=True, capacity=room, bridges=("br0",))
            touched = self.event(KEYS.node_alive(name), alive)
            self.turns.update(touched | self.event(KEYS.node_facts(name), NodeFacts(name=name, uuid=name)))
        spec = VmSpec(
            project=VM.project, name=VM.name, uuid="u", image="i", image_uuid="i", volume_uuid="v", cpus=1,
            memory_mib=512, disk_bytes=1,
        )  # fmt: skip
        self.turns.update(self.event(KEYS.vm_spec(VM), spec))

    def event(self, key: str, record: Record | None) -> set[ParsedKey]:
        revision = self.world.revision + 1
        entry = Entry(key, encode(record), revision, revision, 1) if record is not None else None
        return set(self.world.apply(Batch(revision, (KeyEvent(key, revision, entry),))))


def test_a_vm_that_went_with_a_change_of_the_settings_is_not_asked_for() -> None:
    """Seed 1506451: the deletion and new settings came in one batch, and the agent died of it."""
    cluster = _Cluster()
    assert VM in cluster.turns.waiting
    gone = cluster.event(KEYS.vm_spec(VM), None)
    cluster.turns.update(gone | cluster.event(KEYS.cluster(), ClusterConfig(brake_percent=40)))
    cluster.now_s = 10.0
    late, again_s = cluster.turns.overdue()
    assert late == [] and again_s > 0
