"""Verbs for scenarios, above all: what people and rare accidents do to records, images and requests.

Owns: these verbs. Refuses: being counted: no cell of coverage is theirs. Seeds use a few (:mod:`.rare_faults`).
"""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec

from ....core.model import (
    Claim,
    ClusterConfig,
    Fence,
    Generation,
    Image,
    ImageState,
    Import,
    NodeFacts,
    NodeSpec,
    Removal,
    VmId,
)
from ....core.protocol import fences
from ....core.protocol.node_removal import announce_removal, remove_node
from ....core.state.cluster_state import seen
from ....core.state.codec import decode, encode
from ....core.transaction import Lost, Put, Transaction
from ....ports import Unavailable
from ....ports.ownership import Found
from ..engine.lab import Lab
from .by_hand_disks import DISKS
from .by_hand_storage import STORAGE
from .faults_hosts import HOSTS
from .upgrading import UPGRADES
from .verbs import FAULTS, Undo, fault, host_of, nothing

_BEFORE: Final = frozenset(FAULTS)


@fault("set", "cluster")
def _set(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A person changes the cluster's settings: ``set lease_ttl_s=8``."""
    entry = lab.cluster.get(lab.keys.cluster())
    fields = msgspec.to_builtins(decode(ClusterConfig, entry.value)) if entry is not None else {"v": 1}
    for pair in args:
        name, _, value = pair.partition("=")
        fields[name] = msgspec.json.decode(value)
    lab.put(lab.keys.cluster(), msgspec.convert(fields, ClusterConfig))
    return nothing


@fault("fence-by-hand", "cluster")
def _fence_by_hand(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A person says that a node is gone (``metastack node fence``): the brake does not hold this back."""
    entry = lab.cluster.get(lab.keys.fence(args[0]))
    found = seen(Fence, entry) if entry is not None else None
    said = lab.cluster.get(lab.keys.generation())
    generation = seen(Generation, said).ok.generation if said is not None else 0
    if found is not None and found.record is not None and fences.under_way(found.record, generation):
        return None
    change = fences.intent_by_hand(lab.keys, args[0], found, generation, "", "it is switched off")
    return None if isinstance(lab.by_hand(change), Lost) else nothing


@fault("remove-node", "cluster")
def _remove_node(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A person forgets a node that is lost and fenced: ``remove-node n1 5`` is that long on its way to etcd."""
    keys, node, get = lab.keys, args[0], lab.cluster.get
    facts, fence = get(keys.node_facts(node)), get(keys.fence(node))
    if facts is None or fence is None or get(keys.node_alive(node)) is not None:
        return None
    known, old, mark = seen(NodeFacts, facts), seen(Fence, fence), Removal(by="a person")
    told = msgspec.structs.replace(announce_removal(keys, node, known, old, mark, 0), effects=())
    if old.ok.intent or not old.ok.through or isinstance(lab.cluster.apply(told), Lost):
        return None
    lab.put(keys.removal(node), mark)
    entry, spec = get(keys.removal(node)), get(keys.node_spec(node))
    assert entry is not None
    change = remove_node(
        keys, node, seen(Removal, entry), old, seen(NodeSpec, spec) if spec is not None else None
    )
    lab.loop.call_later(float(args[1]) if len(args) > 1 else 0.0, lambda: lab.cluster.apply(change))
    return nothing


@fault("virsh", "node")
def _virsh(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Somebody uses virsh on a guest: ``virsh n1 save vm1``, ``undefine``, or ``snapshot`` to a local file."""
    hypervisor = host_of(lab, args).hypervisor
    found = [domain.uuid for domain in hypervisor.active() if domain.managed and domain.name == args[2]]
    for uuid in found:
        match args[1]:
            case "save":
                hypervisor.save(uuid)
            case "undefine":
                hypervisor.undefine(uuid)
            case "snapshot":
                hypervisor.change(uuid, disk="/var/lib/libvirt/images/overlay")
    return nothing if found else None


@fault("garble", "cluster", lasts=True)
def _garble(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A record is overwritten with what no version reads: ``garble claim vm1``; at the end it is put back."""
    kind, name = args[0], args[-1]
    vm = VmId("default", name)
    nodes = {"fence": lab.keys.fence, "facts": lab.keys.node_facts}
    if kind == "settings":
        key = lab.keys.cluster()
    else:
        vms = {"claim": lab.keys.claim, "spec": lab.keys.vm_spec}
        key = nodes[kind](name) if kind in nodes else vms[kind](vm)
    entry = lab.cluster.get(key)
    if entry is None:
        return None

    def put(value: bytes) -> None:
        lab.cluster.apply(Transaction(name="operator", guards=(), effects=(Put(key, value),)))

    # A claim's epoch may be stored as "the revision of this put": put back, it must be the number it was.
    whole = encode(seen(Claim, entry).ok) if kind == "claim" else entry.value
    put(b'{"v":99}')
    return partial(put, whole)


@fault("image-remains", "cluster")
def _image_remains(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """An importer died: its image is in the pool, and only the record of the import names it."""
    uuid = "22222222-0000-4000-8000-000000000000"
    lab.pool.images[uuid] = 512
    lab.pool.image_marks[uuid] = Found(cluster="sim", kind="image", record=uuid, ident=uuid)
    lab.put(lab.keys.import_of(uuid), Import(uuid=uuid, name="half", cluster_id="sim"))
    return nothing


@fault("image-deleting", "cluster")
def _image_deleting(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Somebody began to delete an image and died: its record says so, the image is still there."""
    uuid = "33333333-0000-4000-8000-000000000000"
    lab.pool.images[uuid] = 512
    record = Image(name="old", uuid=uuid, state=ImageState.DELETING, size_bytes=512)
    lab.put(lab.keys.image("old"), record)
    return nothing


@fault("alive-deleted", "cluster")
def _alive_deleted(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Somebody deletes a node's alive key; its lease lives on."""
    lab.delete(lab.keys.node_alive(args[0]))
    return nothing


@fault("new-address", "cluster")
def _new_address(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A machine gets another storage address, ``new-address n1 10.0.1.1``; its old clients keep theirs."""
    lab.hosts[args[0]].moves(args[1])
    return nothing


@fault("fence-unanswered", "cluster", lasts=True)
def _fence_unanswered(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The storage takes no block and says so to nobody: "unreachable" for fences only."""

    def fail(what: str, address: str) -> Exception | None:
        return Unavailable("fence: no monitor answers") if what == "fence" else None

    lab.pool.troubles.append(fail)
    return partial(lab.pool.troubles.remove, fail)


@fault("answer-takes", "node")
def _answer_takes(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The next answer of etcd about a kind of record is that late: ``answer-takes n1 claims 4``."""
    wire = host_of(lab, args).wire
    if wire is None:
        return None
    wire.late = (f"/{args[1]}/", float(args[2]))
    return nothing


@fault("request-takes", "node")
def _request_takes(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The next transaction of a name is that long on its way to etcd: ``request-takes n1 release 6``."""
    wire = host_of(lab, args).wire
    if wire is None:
        return None
    wire.slow = (args[1], float(args[2]))
    return nothing


@fault("unheard", "node", lasts=True)
def _unheard(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Events of a kind of record never reach a node: ``unheard n1 claims``."""
    host = host_of(lab, args)
    wire = host.wire
    if wire is None:
        return None
    wire.missed_changes, host.lost_events = f"{lab.keys.prefix()}{args[1]}/", True

    def end() -> None:
        wire.missed_changes = ""

    return end


@fault("foreign-domain", "node", lasts=True)
def _foreign_domain(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Somebody starts a domain of their own under a VM's UUID: ``foreign-domain n1 vm1``."""
    spec = lab.operator.spec(args[1])
    if spec is None:
        return None
    hypervisor = host_of(lab, args).hypervisor
    hypervisor.add_foreign(spec.uuid, args[1])
    return partial(hypervisor.forget, spec.uuid)


@fault("calls-take", "node", lasts=True)
def _calls_take(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Some calls wait that many seconds in a machine's libvirtd: ``calls-take n1 start=12 kill=5``."""
    hypervisor = host_of(lab, args).hypervisor
    takes = {name: float(seconds) for name, _, seconds in (word.partition("=") for word in args[1:])}
    hypervisor.slow_s = lambda what: takes.get(what, 0.0)

    def end() -> None:
        hypervisor.slow_s = lambda _what: 0.0

    return end


@fault("damage", "node")
def _damage(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Somebody edits a domain's metadata, and nobody can read it any more: ``damage n1 vm1``."""
    hypervisor = host_of(lab, args).hypervisor
    found = [domain.uuid for domain in hypervisor.known() if domain.managed and domain.name == args[1]]
    for uuid in found:
        hypervisor.damage(uuid)
    return nothing if found else None


@fault("undefine", "node")
def _undefine(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Somebody shuts down and undefines every domain that nobody can read: ``undefine n1``."""
    hypervisor = host_of(lab, args).hypervisor
    for domain in hypervisor.known():
        if domain.damaged:
            hypervisor.remove(domain.uuid)
    return nothing


@fault("connection-ends", "node")
def _connection_ends(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """libvirtd hung for longer than its keepalive: the agent connects again, what it sent stays in there."""
    hypervisor = host_of(lab, args).hypervisor
    if not hypervisor.alive:
        return None
    hypervisor.connection_ends()
    return nothing


@fault("qemu-hangs", "host", lasts=True)
def _qemu_hangs(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The QEMU of a guest is stopped (SIGSTOP) there: it neither writes nor answers. ``qemu-hangs n1 vm1``."""
    host = lab.hosts[args[0]]
    found = next((d for d in host.hypervisor.guests() if d.managed and d.name == args[1]), None)
    if found is None:
        return None
    host.hypervisor.hangs(found.uuid)
    return lambda: host.hypervisor.thaws(found.uuid)


@fault("storage-takes", "cluster", lasts=True)
def _storage_takes(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Some storage calls take that many seconds: ``storage-takes create_disk=8``. The rest is quick."""
    before = lab.pool.delay_s
    takes = {name: float(seconds) for name, _, seconds in (word.partition("=") for word in args)}
    lab.pool.delay_s = lambda what: takes.get(what, 0.0) or before(what)

    def end() -> None:
        lab.pool.delay_s = before

    return end


@fault("etcd-went-back", "cluster", lasts=True)
def _etcd_went_back(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """An old backup answers in etcd's place, as of second N: ``etcd-went-back N``. At the end etcd is back."""
    return lab.cluster.go_back(float(args[0]))


from . import outside  # noqa: E402, F401 - its verbs are of this kind, too

COPIES: Final = frozenset({"clone", "second-agent"})
BY_HAND: Final = (
    (frozenset(FAULTS) - _BEFORE)
    | HOSTS
    | DISKS
    | STORAGE
    | UPGRADES
    | {"etcd-restored", "cluster-restore", "maintenance", "shut-down", "cluster-shutdown"}
    | COPIES
)
"""Verbs that coverage does not count."""
