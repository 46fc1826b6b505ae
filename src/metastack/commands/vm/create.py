"""Creating VMs: one, or many at once.

Owns: the first version of a spec. Refuses: deciding where it runs; waiting until it does.
Rule: everything that can be wrong is reported before anything is written; one transaction writes a VM whole,
and of many up to :data:`VMS_AT_ONCE` together or none of them.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from typing import Final
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import replace

from metastack.core.model import (
    ClusterConfig,
    Event,
    Ha,
    Image,
    ImageState,
    Nic,
    NodeFacts,
    Placement,
    Power,
    Project,
    VmId,
    VmSpec,
)
from metastack.core.state.cluster_state import Seen, mod_of
from metastack.core.state.codec import encode
from metastack.core.transaction import Delete, Guard, Put

from .. import names
from ..capacity.reserve import admit
from ..problem import Problem, conflict, not_found, usage
from ..request import VMS_AT_ONCE, Cluster, Plan, Request, commit, readable
from .specs import Changed, label_of, spec_effects

DEFAULT_MEMORY_MIB: Final = 512
MAX_COUNT: Final = 1000
_NUMBER: Final = re.compile(r"\{n(?::0?([0-9]{1,2}))?\}")


class NewVm(Struct, frozen=True, kw_only=True):
    """What ``vm create`` was told."""

    vm: VmId
    image: str
    cpus: int = 1
    memory_mib: int = DEFAULT_MEMORY_MIB
    disk_bytes: int = 0
    """0: as large as the image."""
    node: str = ""
    """Pin to this node."""
    network: str = ""
    """Bridge; empty: the configuration's default; ``none``: no NIC."""
    labels: dict[str, str] = {}
    placement: Placement = Placement()
    ha: Ha = Ha()
    resources: dict[str, int] = {}
    off: bool = False


class Created(Struct, frozen=True, kw_only=True):
    """What became of many: those that were written, and why the rest was not."""

    specs: list[VmSpec]
    problem: Problem | None = None


def new_mac() -> str:
    """A random locally administered unicast address."""
    return ":".join(f"{byte:02x}" for byte in (0x02, *secrets.token_bytes(5)))


def numbered(template: str, count: int, first: int = 1) -> list[str]:
    """``web-{n}`` or ``web-{n:03}`` as a list of names."""
    if not 1 <= count <= MAX_COUNT:
        raise usage("--count", f"{count} is out of range", f"1 to {MAX_COUNT}")
    if first < 0:
        raise usage("--first", f"{first} is less than 0")
    if len(_NUMBER.findall(template)) != 1 or set("{}") & set(_NUMBER.sub("", template)):
        raise usage(
            "--name-template", f"{template!r} must contain {{n}} once", "such as web-{n}, or web-{n:03}"
        )
    return [
        _NUMBER.sub(lambda found, n=n: str(n).zfill(int(found[1] or 0)), template)  # type: ignore[misc]
        for n in range(first, first + count)
    ]


async def create_vm(cluster: Cluster, request: Request, new: NewVm, ignore_spare: bool = False) -> Changed:
    """Write the spec of a new VM; raises Problem before anything is written when a field is wrong."""
    creation = _Creation(cluster, request, [new], ignore_spare)
    [spec] = await commit(cluster, request, creation.look)
    return Changed(spec=spec)


async def create_vms(
    cluster: Cluster, request: Request, news: Sequence[NewVm], ignore_spare: bool = False
) -> Created:
    """Write many specs, :data:`VMS_AT_ONCE` a transaction. What stands in the way of any is looked for first.

    Raises Problem when nothing was written.
    """
    await _Creation(cluster, request, news, ignore_spare).look()
    made: list[VmSpec] = []
    for start in range(0, len(news), VMS_AT_ONCE):
        part = _Creation(
            cluster, request, news[start : start + VMS_AT_ONCE], ignore_spare, f"{start // VMS_AT_ONCE:04}"
        )
        try:
            written = await commit(cluster, request, part.look, part.step)
        except Problem as problem:
            if not made:
                raise
            return Created(specs=made, problem=problem)
        made += written
    return Created(specs=made)


async def plan_vms(cluster: Cluster, request: Request, news: Sequence[NewVm]) -> list[VmSpec]:
    """The specs as they would be written; nothing is."""
    return (await _Creation(cluster, request, news, ignore_spare=True).look()).answer


class _Creation:
    """The look before the leap, of one VM or of a few together."""

    def __init__(
        self, cluster: Cluster, request: Request, news: Sequence[NewVm], ignore_spare: bool, step: str = ""
    ) -> None:
        self.step = step
        self._cluster, self._request, self._news, self._ignore_spare = cluster, request, news, ignore_spare
        names.reason(request.reason)
        for new in news:
            _check(new)
        if len({new.vm for new in news}) < len(news):
            raise usage("vm", "one name is given twice")
        self._ids = [(str(uuid4()), str(uuid4()), new_mac()) for _ in news]

    async def look(self) -> Plan[list[VmSpec]]:
        cluster, keys, news = self._cluster, self._cluster.keys, self._news
        images = {name: keys.image(name) for name in sorted({new.image for new in news})}
        config, found, projects = await asyncio.gather(
            cluster.config(),
            asyncio.gather(*(cluster.read(Image, key) for key in images.values())),
            self._projects(),
        )
        await self._refuse_taken()
        await self._refuse_strangers()
        ready = {name: _usable(image, name) for name, image in zip(images, found, strict=True)}
        specs = [
            self._spec(new, ids, ready[new.image], config) for new, ids in zip(news, self._ids, strict=True)
        ]
        admitted = await admit(cluster, self._request, config, specs, self._ignore_spare)
        # Safety: the image's revision is a guard, so an image that is being deleted never gets a new user;
        # `image delete` marks the record first and looks for users after that.
        guards = (
            *(Guard(keys.vm_spec(new.vm), "mod", 0) for new in news),
            *(Guard(key, "mod", mod_of(image)) for key, image in zip(images.values(), found, strict=True)),
            *(Guard(keys.project(name), "mod", mod_of(project)) for name, project in projects if project),
            *admitted.guards,
        )
        written = (effect for spec in specs for effect in spec_effects(cluster, config, None, spec, 1))
        effects = list({effect.key: effect for effect in written}.values())  # one notice for all of a group
        if len(specs) == 1:
            what, object, message = "vm.create", label_of(specs[0].id), _message(specs[0])
        else:
            what, object = "vm.create_many", f"project {specs[0].project}"
            message = f"{len(specs)} VMs: {specs[0].name} ... {specs[-1].name}"
            effects += self._events(specs)
        return Plan(
            guards=guards, effects=(*effects, *admitted.effects), what=what, object=object, message=message,
            answer=specs,
        )  # fmt: skip

    async def _projects(self) -> list[tuple[str, Seen[Project] | None]]:
        wanted = sorted({new.vm.project for new in self._news})
        return [(name, await _project(self._cluster, name)) for name in wanted]

    async def _refuse_taken(self) -> None:
        cluster = self._cluster
        found = await asyncio.gather(*(cluster.store.get(cluster.keys.vm_spec(new.vm)) for new in self._news))
        taken = [new.vm for new, entry in zip(self._news, found, strict=True) if entry is not None]
        if taken:
            more = f", like {len(taken) - 1} more of these names" if len(taken) > 1 else ""
            raise conflict(
                label_of(taken[0]),
                "exists already" + more,
                f"`metastack vm show {taken[0]}`, or choose another name",
            )

    async def _refuse_strangers(self) -> None:
        """Nodes and VMs that the demands name must exist."""
        cluster = self._cluster
        for node in sorted({_pin(new) for new in self._news} - {""}):
            if await cluster.read(NodeFacts, cluster.keys.node_facts(node)) is None:
                raise not_found(f"node {node}", "`metastack node list` shows the nodes")
        for new in self._news:
            await check_order(cluster, new.vm, new.ha, {other.vm: other.ha for other in self._news})

    def _spec(self, new: NewVm, ids: tuple[str, str, str], image: Image, config: ClusterConfig) -> VmSpec:
        disk = names.disk_bytes(
            new.disk_bytes or -(-image.size_bytes // 512) * 512, image.size_bytes, new.image
        )
        request, nics = self._request, _nics(new.network or config.default_network or "none", ids[2])
        check_ready_port(new.ha, bool(nics))
        return VmSpec(
            project=new.vm.project,
            name=new.vm.name,
            uuid=ids[0],
            image=new.image,
            image_uuid=image.uuid,
            volume_uuid=ids[1],
            cpus=new.cpus,
            memory_mib=new.memory_mib,
            disk_bytes=disk,
            power=Power.OFF if new.off else Power.ON,
            nics=nics,
            labels=new.labels,
            placement=replace(new.placement, node=_pin(new)),
            resources=new.resources,
            ha=new.ha,
            created=request.at,
            by=request.by,
            reason=request.reason,
            request_id=request.request_id,
        )

    def _events(self, specs: Sequence[VmSpec]) -> list[Put | Delete]:
        """Each VM's own event, beside the transaction's."""
        request, keys = self._request, self._cluster.keys
        found: list[Put | Delete] = []
        for n, spec in enumerate(specs):
            event = Event(
                at=request.at,
                by=request.by,
                what="vm.create",
                object=label_of(spec.id),
                message=_message(spec),
                reason=request.reason,
                request_id=request.request_id,
            )
            key = keys.event(request.at_ms, f"{request.request_id}-{self.step}-{n:02}")
            found.append(Put(key, encode(event)))
        return found


def _check(new: NewVm) -> None:
    names.cpus(new.cpus)
    names.memory_mib(new.memory_mib)
    names.bounded_labels(new.labels)
    names.name("vm", new.vm.name)
    names.name("image", new.image)
    if _pin(new):
        names.name("node", _pin(new))
    if new.network not in ("", "none"):
        names.bridge(new.network)
    check_ready_port(new.ha, new.network != "none")


def check_ready_port(ha: Ha, network: bool) -> None:
    """Refuse a port that nobody can ever reach."""
    if ha.ready_port and not network:
        text = f"{ha.ready_port} never answers without a network, so VMs that start after it wait for ever"
        raise usage("--ready-port", text, "give the VM a network (`vm create --network`), or --ready-port 0")


def _pin(new: NewVm) -> str:
    return new.node or new.placement.node


def _message(spec: VmSpec) -> str:
    return f"image {spec.image}, {spec.cpus} vCPU, {spec.memory_mib} MiB"


async def check_order(cluster: Cluster, vm: VmId, ha: Ha, beside: dict[VmId, Ha] | None = None) -> None:
    """VMs that this one starts after must exist, and not start after it in turn. Raises Problem.

    ``beside``: VMs that are written together with it.
    """
    known = {**(beside or {}), vm: ha}
    ways: list[tuple[VmId, ...]] = [(vm, VmId(vm.project, name)) for name in ha.start_after]
    seen: set[VmId] = set()
    while ways:
        way = ways.pop()
        at = way[-1]
        if at == vm:
            circle = " after ".join(one.name for one in way)
            raise conflict(label_of(vm), f"would start after itself: {circle}", "leave one --start-after out")
        if at in seen:
            continue
        seen.add(at)
        order = known.get(at)
        if order is None:
            found = await cluster.read(VmSpec, cluster.keys.vm_spec(at))
            if found is None and len(way) == 2:
                raise not_found(label_of(at), "--start-after names it; `metastack vm list` shows the VMs")
            order = found.record.ha if found is not None and found.record is not None else Ha()
        ways += [(*way, VmId(vm.project, name)) for name in order.start_after]


async def _project(cluster: Cluster, name: str) -> Seen[Project] | None:
    """The project's record; ``default`` needs none."""
    found = await cluster.read(Project, cluster.keys.project(name))
    if found is None and name != names.DEFAULT_PROJECT:
        raise not_found(f"project {name}", f"`metastack project create {name}` creates it")
    return found


def _usable(found: Seen[Image] | None, name: str) -> Image:
    object = f"image {name}"
    if found is None:
        raise not_found(object, "`metastack image list` shows the images")
    image = readable(found, object)
    if image.state is not ImageState.READY:
        raise conflict(
            object, f"is {image.state.value}", "wait until it is ready: `metastack image list --watch`"
        )
    return image


def _nics(network: str, mac: str) -> tuple[Nic, ...]:
    return () if network == "none" else (Nic(bridge=network, mac=mac),)
