"""Turns of one node, moment by moment: when everybody looks, and an engine that is made again."""

from __future__ import annotations

from metastack.agent.reconcile.turns import LOOK_AGAIN_S, ClaimTurns
from metastack.core.model import Claim, ClusterConfig, NodeAlive, NodeFacts, Record, Resources, VmId, VmSpec
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys, ParsedKey
from metastack.core.transaction import Batch, Entry, KeyEvent, Snapshot

KEYS = Keys()
VM = VmId("default", "vm1")
ME, STEP_S = "n2", 0.03


class _Cluster:
    """Nodes with room, a VM that waits, and the turns of n2."""

    def __init__(self, *nodes: str) -> None:
        self.world, self.now_s = ClusterState(KEYS), 0.0
        self.world.load(Snapshot(1, ()))
        self.turns = ClaimTurns(self.world, ME, lambda: self.now_s)
        room = Resources(cpus=4, memory_mib=4096)
        for name in nodes:
            alive = NodeAlive(name=name, ready=True, capacity=room, bridges=("br0",))
            touched = self.event(KEYS.node_alive(name), alive)
            self.turns.update(touched | self.event(KEYS.node_facts(name), NodeFacts(name=name, uuid=name)))
        self.turns.update(self.want(VM))

    def want(self, vm: VmId, memory_mib: int = 512) -> set[ParsedKey]:
        spec = VmSpec(
            project=vm.project, name=vm.name, uuid=f"u-{vm.name}", image="i", image_uuid="i",
            volume_uuid=f"v-{vm.name}", cpus=1, memory_mib=memory_mib, disk_bytes=1,
        )  # fmt: skip
        return self.event(KEYS.vm_spec(vm), spec)

    def fill(self, node: str) -> None:
        """Somebody else's VM comes to a node and takes all of its room; nobody saw it wait."""
        vm = VmId("default", f"on-{node}")
        claim = Claim(node=node, session=1 << 40, uuid=f"u-{vm.name}", volume_uuid=f"v-{vm.name}", claim_id="c")
        self.turns.update(self.want(vm, 3072) | self.event(KEYS.claim(vm), claim))

    def event(self, key: str, record: Record | None) -> set[ParsedKey]:
        revision = self.world.revision + 1
        entry = Entry(key, encode(record), revision, revision, 1) if record is not None else None
        return set(self.world.apply(Batch(revision, (KeyEvent(key, revision, entry),))))


def test_a_vm_gone_with_a_settings_change_is_skipped() -> None:
    """Seed 1506451: the deletion and new settings came in one batch, and the agent died of it."""
    cluster = _Cluster("n1", "n2")
    assert VM in cluster.turns.engine.waiting
    gone = cluster.event(KEYS.vm_spec(VM), None)
    cluster.turns.update(gone | cluster.event(KEYS.cluster(), ClusterConfig(brake_percent=40)))
    cluster.now_s = 10.0
    assert cluster.turns.overdue() == [] and cluster.turns.due_s() is None


def test_all_nodes_look_once_a_deaf_head_is_full() -> None:
    """Nine nodes, and n2 is not among the eight that are to take it."""
    cluster = next(
        cluster
        for n in range(3, 60)
        if ME not in (cluster := _Cluster(ME, *_others(n))).turns.engine.waiting[VM].head
    )
    head = cluster.turns.engine.waiting[VM].head
    assert cluster.turns.overdue() == [] and cluster.turns.due_s() == STEP_S
    cluster.now_s = STEP_S
    assert cluster.turns.overdue() == [], "the others of the head have room"
    assert cluster.turns.due_s() == 2 * STEP_S
    for node in head[1:]:
        cluster.fill(node)
    assert cluster.turns.engine.waiting[VM].head == head
    cluster.now_s = 2 * STEP_S
    assert cluster.turns.overdue() == [], "nobody is deaf: the whole head has its time"
    assert cluster.turns.due_s() == 3 * STEP_S
    cluster.turns.engine.misses.won("m1", ("m0", "m1"))
    cluster.now_s = 3 * STEP_S
    assert cluster.turns.overdue() == [VM], "it need not wait for them"


def test_a_lower_rank_looks_only_at_its_turn() -> None:
    cluster = _behind()
    rank = cluster.turns.engine.waiting[VM].head.index(ME)
    assert cluster.turns.to_look_at() == [] and cluster.turns.overdue() == [], "it is the first's to take"
    assert cluster.turns.due_s() == rank * STEP_S
    cluster.now_s = rank * STEP_S
    assert cluster.turns.overdue() == [VM]
    turn = cluster.turns.mine(VM)
    assert turn is not None and turn.rank == rank and turn.waited_s >= turn.delay_s
    assert cluster.turns.overdue() == [], "it was told once"
    assert cluster.turns.due_s() == cluster.now_s + LOOK_AGAIN_S, "and is again while it waits"


def test_a_deaf_rank_is_waited_for_a_shorter_time() -> None:
    cluster = _behind(deaf="m0")
    assert cluster.turns.due_s() == STEP_S / 3


def test_what_is_claimed_in_time_costs_nobody_else_a_look() -> None:
    cluster = _behind()
    spec = cluster.world.spec(VM)
    assert spec is not None
    first = cluster.turns.engine.waiting[VM].head[0]
    claim = Claim(node=first, session=1 << 40, uuid=spec.ok.uuid, volume_uuid="v-vm1", claim_id="c")
    cluster.turns.update(cluster.event(KEYS.claim(VM), claim))
    cluster.now_s = 10.0
    assert cluster.turns.overdue() == [] and cluster.turns.due_s() is None


def test_a_node_that_joins_a_head_has_its_own_turn() -> None:
    """Those before it are the same as when it was not in the head: it waited for a whole head's time."""
    for n in range(60):
        cluster = _Cluster(*_others(n)[:3])
        cluster.now_s = STEP_S
        alive = NodeAlive(name=ME, ready=True, capacity=Resources(cpus=4, memory_mib=4096), bridges=("br0",))
        touched = cluster.event(KEYS.node_facts(ME), NodeFacts(name=ME, uuid=ME))
        cluster.turns.update(touched | cluster.event(KEYS.node_alive(ME), alive))
        if cluster.turns.engine.waiting[VM].head.index(ME) == 3:
            break
    assert cluster.turns.due_s() == 3 * STEP_S, "it has waited one of three already"
    cluster.now_s = 3 * STEP_S
    assert cluster.turns.overdue() == [VM]


def _behind(deaf: str = "") -> _Cluster:
    """A cluster in which n2 stands in the head of the VM, but not first."""
    for n in range(60):
        cluster = _Cluster(ME, *_others(n)[:4])
        if deaf:
            cluster.turns.engine.misses.count[deaf] = 1
            cluster.turns.update(cluster.event(KEYS.vm_spec(VM), None))
            cluster.turns.update(cluster.want(VM))
        if cluster.turns.engine.waiting[VM].head[0] != ME:
            return cluster
    raise AssertionError("it is the first of all of them")


def _others(n: int) -> list[str]:
    return [f"m{n}-{i}" for i in range(8)]
