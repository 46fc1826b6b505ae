"""Records of the real-etcd benches: nodes, VMs and claims, each made from its number alone.

Owns: what is written. Refuses: randomness and clocks, so that every process makes the same record of a number.
Rule: agents, raw writers and followers are given the same records and the same compares.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable, Sequence
from typing import TypeVar

from bench.placement.loads import OFTEN, SHAPES
from metastack.core.model import (
    Claim,
    ClusterConfig,
    Event,
    GroupTerm,
    Nic,
    NodeAlive,
    NodeFacts,
    NodeSpec,
    Phase,
    Placement,
    Resources,
    VmSpec,
    VmStatus,
    Volume,
    token_revision,
)
from metastack.core.protocol import claims
from metastack.core.protocol.guards import OwnSession
from metastack.core.state.cluster_state import Seen
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys
from metastack.core.state.record_versions import LEVEL
from metastack.core.transaction import Delete, Put, Transaction

T = TypeVar("T")

KEYS = Keys()
IMAGE_UUID = "5b1f6f0e-2f3a-4a6e-9b3c-0c6f7d1d2e3f"
AT = "2026-01-01T00:00:00.000Z"
ROOM = Resources(cpus=8192, memory_mib=1 << 26)
"""Room is no question here: how fast is."""
GROUP = 4
"""VMs that keep away from each other."""
RACKS = 8
AT_ONCE = 16
"""VMs in one transaction of whoever writes many."""


def node(n: int) -> str:
    """A node whose agent takes VMs."""
    return f"n{n:04d}"


def bystander(n: int) -> str:
    """A node that is alive, full of VMs, and takes none."""
    return f"p{n:04d}"


def vm_name(n: int) -> str:
    return f"vm-{n:05d}"


def _ident(random_: random.Random) -> str:
    return str(uuid.UUID(int=random_.getrandbits(128), version=4))


def spec(n: int, apart: str = "") -> VmSpec:
    """``apart``: topology over which groups of :data:`GROUP` keep away from each other; empty: nobody does."""
    random_ = random.Random(f"vm/{n}")
    cpus, mib = random_.choices(SHAPES, OFTEN)[0]
    labels = {"app": f"g{n // GROUP}"} if apart else {}
    far = (GroupTerm(labels=labels, topology=apart),) if apart else ()
    return VmSpec(
        project="default", name=vm_name(n), uuid=_ident(random_), image="debian-12", image_uuid=IMAGE_UUID,
        volume_uuid=_ident(random_), cpus=cpus, memory_mib=mib, disk_bytes=20 << 30,
        nics=(Nic(bridge="br0", mac=f"52:54:00:{n >> 16 & 255:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"),),
        labels=labels, placement=Placement(anti_affinity=far), by="admin", created=AT,
        request_id=_ident(random_),
    )  # fmt: skip


def config(**more: object) -> Transaction:
    """Settings; looks at everything and losses of nodes are no part of what is measured."""
    fields: dict[str, object] = {
        "record_version": LEVEL, "lease_ttl_s": 60, "full_look_s": 3600, "brake_percent": 0,
        "overcommit_cpu": 4.0,
        **more,
    }  # fmt: skip
    record = ClusterConfig(**fields)  # type: ignore[arg-type]
    return Transaction(name="config", guards=(), effects=(Put(KEYS.cluster(), encode(record)),))


def _alive(name: str) -> NodeAlive:
    return NodeAlive(
        name=name, ready=True, since=AT, address="10.9.0.1", capacity=ROOM, bridges=("br0",), storage="memory",
        hypervisor="qemu", hypervisor_why="in memory", versions={"memory": "1", "metastack": "0"},
    )  # fmt: skip


def places(count: int) -> list[Transaction]:
    """In which rack each node is."""
    puts = [
        Put(KEYS.node_spec(node(n)), encode(NodeSpec(labels={"rack": f"r{n % RACKS}"}))) for n in range(count)
    ]
    return [Transaction(name="places", guards=(), effects=tuple(some)) for some in _by(puts, 100)]


def nodes(names: Sequence[str], lease: int, *, cordoned: bool) -> list[Transaction]:
    """Nodes without an agent: their records, alive as long as that lease."""
    found = []
    for name in names:
        facts = NodeFacts(name=name, uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, name)), joined=AT)
        effects: list[Put] = [
            Put(KEYS.node_facts(name), encode(facts)),
            Put(KEYS.node_alive(name), encode(_alive(name)), leased=True),
        ]
        if cordoned:
            effects.append(Put(KEYS.node_spec(name), encode(NodeSpec(cordoned=True, by="admin"))))
        found.append(effects)
    return [
        Transaction(name="nodes", guards=(), effects=tuple(e for effects in some for e in effects), lease=lease)
        for some in _by(found, 30)
    ]


def wishes(numbers: Iterable[int], apart: str = "") -> list[Transaction]:
    """New VMs as commands write them, several in a transaction: spec, first version, event."""
    found = []
    for some in _by(list(numbers), AT_ONCE):
        effects = []
        for n in some:
            wish = spec(n, apart)
            event = Event(at=AT, by="admin", what="vm.created", object=str(wish.id), request_id=wish.request_id)
            effects += [
                Put(KEYS.vm_spec(wish.id), encode(wish)),
                Put(KEYS.history(wish.id, 1), encode(wish)),
                Put(KEYS.event(n, f"w{n:06d}"), encode(event)),
            ]
        found.append(Transaction(name="create", guards=(), effects=tuple(effects)))
    return found


def claim(n: int, me: OwnSession, spec_revision: int, apart: str = "") -> Transaction:
    """What that node writes to take that VM: the agent's own transaction, with its own compares."""
    wish = spec(n, apart)
    new = Claim(
        node=me.node, session=me.session, uuid=wish.uuid, volume_uuid=wish.volume_uuid,
        claim_id=uuid.uuid5(uuid.NAMESPACE_DNS, f"claim/{n}").hex,
    )  # fmt: skip
    volume = Volume(
        uuid=wish.volume_uuid, project=wish.project, vm=wish.name, vm_uuid=wish.uuid,
        size_bytes=wish.disk_bytes, image_uuid=wish.image_uuid, pool="vms",
    )  # fmt: skip
    event = Event(at=AT, by=f"node/{me.node}", what="vm.claimed", object=str(wish.id))
    written = token_revision(me.session)  # with its alive key (nodes)
    facts: Seen[NodeFacts] = Seen(None, written, written)
    return claims.claim(
        KEYS, me, wish.id, Seen(wish, spec_revision, spec_revision), new,
        status(n, me, Phase.STARTING), volume, facts, ((KEYS.event(n, f"c{n:06d}"), event),),
    )  # fmt: skip


def told(n: int, me: OwnSession, what: str) -> Put:
    """An event of that VM."""
    event = Event(at=AT, by=f"node/{me.node}", what=what, object=str(spec(n).id))
    return Put(KEYS.event(n, f"{what}{n:06d}"), encode(event))


def status(n: int, me: OwnSession, phase: Phase = Phase.RUNNING, epoch: int = 0) -> VmStatus:
    return VmStatus(uuid=spec(n).uuid, phase=phase, node=me.node, session=me.session, epoch=epoch, since=AT)


def settled(numbers: Iterable[int], at: Sequence[OwnSession]) -> list[Transaction]:
    """VMs that are there already: spec, claim, status and disk, spread over these nodes."""
    found = []
    for some in _by(list(numbers), AT_ONCE):
        lease, effects = 0, list[Put | Delete]()
        for n in some:
            me, wish = at[n % len(at)], spec(n)
            lease = me.lease
            effects.append(Put(KEYS.vm_spec(wish.id), encode(wish)))
            effects += [e for e in claim(n, me, 0).effects if "/events/" not in e.key]
        found.append(Transaction(name="settled", guards=(), effects=tuple(effects), lease=lease))
    return found


def _by(items: Sequence[T], count: int) -> list[Sequence[T]]:
    return [items[at : at + count] for at in range(0, len(items), count)]
