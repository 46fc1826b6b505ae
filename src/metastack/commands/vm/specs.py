"""What the commands about VMs share: how a spec is written, edited and called.

Owns: the effects of writing a spec. Refuses: knowing what any command wants.
Rule: spec, history and event are one transaction guarded by the spec's revision; a command that began with one
VM never touches a later VM of the same name (the UUID is compared on every look).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import Struct
from msgspec.structs import replace

from metastack.core.model import ClusterConfig, Halt, VmId, VmSpec, is_halted
from metastack.core.protocol.rule_versions import given
from metastack.core.state.cluster_state import seen
from metastack.core.state.codec import encode
from metastack.core.transaction import Delete, Guard, Put

from .. import names
from ..problem import conflict, not_found
from ..request import Cluster, Plan, Request, Unchanged, commit, readable


class Changed(Struct, frozen=True, kw_only=True):
    """The spec as it is now, and whether this command wrote it."""

    spec: VmSpec
    changed: bool = True


class Edit(Struct, frozen=True, kw_only=True):
    """A new spec, with guards on whatever else the decision looked at, and what else is written with it."""

    spec: VmSpec
    guards: tuple[Guard, ...] = ()
    effects: tuple[Put | Delete, ...] = ()
    message: str = ""


def label_of(vm: VmId) -> str:
    """How problems and events call a VM."""
    return f"vm {vm}"


def spec_effects(
    cluster: Cluster, config: ClusterConfig, before: VmSpec | None, spec: VmSpec, version: int
) -> tuple[Put | Delete, ...]:
    """The spec, its copy in the history, the end of what the history keeps, and notice of its group rules."""
    keys, value = cluster.keys, encode(spec)
    effects: list[Put | Delete] = [
        Put(keys.vm_spec(spec.id), value),
        Put(keys.history(spec.id, version), value),
    ]
    oldest = version - config.history_versions + 1
    if oldest > 1:
        effects.append(Delete(keys.history_prefix(spec.id), keys.history(spec.id, oldest)))
    return (*effects, *given(keys, before, spec))


async def edit_vm(
    cluster: Cluster,
    request: Request,
    vm: VmId,
    what: str,
    edit: Callable[[VmSpec], Awaitable[Edit | None]],
    uuid: str = "",
) -> Changed:
    """Change a spec that exists; ``edit`` returns None when it is as requested already."""
    object, key, pinned = label_of(vm), cluster.keys.vm_spec(vm), uuid
    names.reason(request.reason)

    async def look() -> Plan[Changed] | Unchanged[Changed]:
        nonlocal pinned
        entry, config = await asyncio.gather(cluster.store.get(key), cluster.config())
        if entry is None:
            if pinned:
                raise conflict(object, "was deleted meanwhile")
            raise not_found(object, "`metastack vm list` shows the VMs")
        spec = readable(seen(VmSpec, entry), object)
        if pinned and spec.uuid != pinned:
            raise conflict(object, "was deleted and created again meanwhile", f"`metastack vm show {vm}`")
        pinned = spec.uuid
        edited = await edit(spec)
        if edited is None:
            return Unchanged(Changed(spec=spec, changed=False))
        after = replace(edited.spec, by=request.by, reason=request.reason, request_id=request.request_id)
        return Plan(
            guards=(Guard(key, "mod", entry.mod_revision), *edited.guards),
            effects=(*spec_effects(cluster, config, spec, after, entry.version + 1), *edited.effects),
            what=what,
            object=object,
            message=edited.message,
            answer=Changed(spec=after),
        )

    return await commit(cluster, request, look)


async def halted(cluster: Cluster, spec: VmSpec) -> bool:
    """Whether the guest switched itself off in this run."""
    found = await cluster.read(Halt, cluster.keys.halt(spec.id))
    halt = None if found is None else readable(found, label_of(spec.id))
    return is_halted(spec, halt)
