"""The operator: what a person writes into the desired state, at any moment.

Owns: specs of the lab's VMs and their UUIDs (a later VM of the same name is another VM with another disk).
Refuses: waiting for anything; a request is one write, whatever state the cluster is in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from msgspec.structs import replace

from ....core.model import Claim, NodeSpec, PinMove, Power, Record, VmId, VmSpec, resolved_claim
from ....core.protocol.rule_versions import given
from ....core.state.cluster_state import seen
from ....core.state.codec import decode, encode
from ....core.state.keys import Keys
from ....core.transaction import Outcome, Put, Transaction
from .etcd import SimCluster
from .spec_words import mac_of, spec_of


class Desk(Protocol):
    """Where an operator reads and writes."""

    @property
    def keys(self) -> Keys: ...
    @property
    def cluster(self) -> SimCluster: ...
    def put(self, key: str, record: Record) -> None: ...
    def by_hand(self, change: Transaction) -> Outcome: ...
    def delete(self, key: str) -> None: ...


class Operator:
    """Writes specs; remembers which VMs ever were."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._numbers: dict[str, int] = {}
        self._lives: dict[str, int] = {}
        self._words: dict[str, tuple[str, ...]] = {}
        self._nodes: dict[str, NodeSpec] = {}
        self.answering: set[str] = set()
        """VMs whose ready port answers while they run."""

    def id(self, name: str) -> VmId:
        """The VM of that name, in the project that it was wanted in."""
        words = (word.partition("=") for word in self._words.get(name, ()))
        return VmId(next((value for key, _, value in words if key == "project"), "default"), name)

    def spec(self, name: str) -> VmSpec | None:
        """The spec as it is now."""
        entry = self._desk.cluster.get(self._desk.keys.vm_spec(self.id(name)))
        return decode(VmSpec, entry.value) if entry is not None else None

    def _put(self, spec: VmSpec) -> bool:
        """As commands write it."""
        keys = self._desk.keys
        effects = (Put(keys.vm_spec(spec.id), encode(spec)), *given(keys, self.spec(spec.name), spec))
        self._desk.by_hand(Transaction(name="operator", guards=(), effects=effects))
        return True

    def want(self, name: str, *more: str) -> bool:
        """Create a VM; one that was there before is as it was, unless something else is asked for.

        ``disk=vm1``: its spec names that VM's disk. ``copy=vm1``: and its UUID, as in a copied record;
        ``uuid=vm1``: only that.
        """
        if self.spec(name) is not None:
            return False
        number = self._numbers.setdefault(name, len(self._numbers) + 1)
        life = self._lives[name] = self._lives.get(name, 0) + 1
        self._words[name] = more or self._words.get(name, ())
        spec = spec_of(name, number, life, self._words[name])
        for word, _, named in (word.partition("=") for word in more):
            other = self.spec(named) if word in ("disk", "copy", "uuid") else None
            if other is not None and word != "uuid":
                spec = replace(spec, volume_uuid=other.volume_uuid)
            if other is not None and word != "disk":
                spec = replace(spec, uuid=other.uuid)
        return self._put(spec)

    def delete(self, name: str) -> bool:
        spec = self.spec(name)
        if spec is None:
            return False
        self._desk.delete(self._desk.keys.vm_spec(spec.id))
        return True

    def recreate(self, name: str) -> bool:
        """Delete, and at once make another VM of the same name."""
        return self.delete(name) and self.want(name)

    def off(self, name: str, force: bool = False) -> bool:
        spec = self.spec(name)
        if spec is None or spec.power is Power.OFF:
            return False
        return self._put(replace(spec, power=Power.OFF, force=force, paused_epoch=0))

    def on(self, name: str) -> bool:
        """Switch on; also a guest that switched itself off."""
        spec = self.spec(name)
        return spec is not None and self._put(
            replace(spec, power=Power.ON, run=spec.run + 1, force=False, paused_epoch=0)
        )

    def restart(self, name: str, force: bool = False) -> bool:
        spec = self.spec(name)
        return spec is not None and self._put(
            replace(spec, power=Power.ON, run=spec.run + 1, force=force, paused_epoch=0)
        )

    def pause(self, name: str) -> bool:
        spec = self.spec(name)
        entry = self._desk.cluster.get(self._desk.keys.claim(VmId("default", name)))
        claim = seen(Claim, entry).record if entry is not None else None
        if spec is None or claim is None or entry is None or spec.power is Power.OFF:
            return False
        if claim.uuid != spec.uuid:
            return False
        return self._put(replace(spec, paused_epoch=resolved_claim(claim, entry.mod_revision).epoch))

    def resume(self, name: str) -> bool:
        spec = self.spec(name)
        if spec is None or not spec.paused_epoch:
            return False
        return self._put(replace(spec, paused_epoch=0))

    def pin(self, name: str, node: str) -> bool:
        """Pin a VM to a node (``-``: to none): for its next claim."""
        spec = self.spec(name)
        if spec is None:
            return False
        place = replace(spec.placement, node="" if node == "-" else node, move=PinMove.STAY)
        return self._put(replace(spec, placement=place))

    def move(self, name: str, node: str) -> bool:
        """Pin a VM to a node, and have it go there cold."""
        spec = self.spec(name)
        if spec is None:
            return False
        return self._put(replace(spec, placement=replace(spec.placement, node=node, move=PinMove.COLD)))

    def answers(self, name: str) -> bool:
        """From now on that VM's guest has its service up whenever it runs."""
        self.answering.add(name)
        return True

    def service(self, mac: str) -> VmSpec | None:
        """The VM with that MAC that has a port to answer on."""
        names = (name for name, number in self._numbers.items() if mac_of(number) == mac)
        specs = (self.spec(name) for name in names)
        return next((spec for spec in specs if spec is not None and spec.ha.ready_port), None)

    def _node(self, node: str, **more: object) -> bool:
        fields = {name: getattr(self._nodes.get(node, NodeSpec()), name) for name in NodeSpec.__struct_fields__}
        self._nodes[node] = NodeSpec(**{**fields, **more})
        self._desk.put(self._desk.keys.node_spec(node), self._nodes[node])
        return True

    def drain(self, node: str, draining: bool = True) -> bool:
        return self._node(node, draining=draining)

    def zone(self, node: str, zone: str) -> bool:
        return self._node(node, labels={"zone": zone})

    def cordon(self, node: str, cordoned: bool = True) -> bool:
        return self._node(node, cordoned=cordoned)

    def uncordon_all(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            if self._desk.cluster.get(self._desk.keys.node_spec(node)) is not None:
                self._node(node, cordoned=False, draining=False)
