"""The versions of a VM's spec: who changed what, when and why.

Owns: reading ``history/<project>/<vm>`` and putting two versions' difference into words. Refuses: writing.
Rule: a version's time is its event's; when that is gone (``event_retention_days``) it is unknown, not guessed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from metastack.core.model import Event, VmId, VmSpec
from metastack.core.state.codec import Unreadable, decode
from metastack.core.state.keys import Kind

from ..problem import not_found
from ..request import Cluster
from .change import label_of
from .placement_options import demands_text

_WHO: Final = ("v", "by", "reason", "request_id", "created")
"""Fields that say who, when and why, and not what."""
_DEMANDS: Final = ("placement", "ha", "resources")
"""Fields that are shown as the options that would say them."""


class VmVersion(Struct, kw_only=True):
    """One version of a VM's spec."""

    version: int
    at: str | None = None
    by: str | None = None
    reason: str | None = None
    changes: list[str] = []
    """What differs from the version before."""
    request_id: str | None = None
    uuid: str | None = None
    broken: bool = False


async def vm_history(cluster: Cluster, vm: VmId) -> list[VmVersion]:
    """Every version that is kept, oldest first; raises Problem when there is none."""
    keys = cluster.keys
    versions, events = await asyncio.gather(
        cluster.store.list(keys.history_prefix(vm)), cluster.store.list(keys.prefix(Kind.EVENT))
    )
    if not versions.entries:
        raise not_found(label_of(vm), "`metastack vm list` shows the VMs; `metastack events` shows deletions")
    times: dict[str, str] = {}
    told: dict[str, str] = {}
    for entry in events.entries:
        try:
            event = decode(Event, entry.value, entry.key)
        except Unreadable:
            continue
        times[event.request_id] = event.at
        if event.what == "vm.rebuild":  # it changes nothing in the spec
            told[event.request_id] = event.message
    found, before = [], None
    for entry in versions.entries:
        number = int(entry.key.rpartition("/")[2])
        try:
            spec = decode(VmSpec, entry.value, entry.key)
        except Unreadable as error:
            found.append(VmVersion(version=number, broken=True, changes=[f"unreadable record: {error.why}"]))
            before = None
            continue
        found.append(
            VmVersion(
                version=number,
                at=times.get(spec.request_id) or (spec.created if number == 1 else None) or None,
                by=spec.by or None,
                reason=spec.reason or None,
                changes=differences(before, spec, number) or _done(told, spec),
                request_id=spec.request_id or None,
                uuid=spec.uuid,
            )
        )
        before = spec
    return found


def _done(told: Mapping[str, str], spec: VmSpec) -> list[str]:
    """What its command did besides, when nothing in the spec differs."""
    return [told[spec.request_id]] if told.get(spec.request_id) else []


def differences(before: VmSpec | None, after: VmSpec, version: int) -> list[str]:
    """What changed, in words."""
    if before is None:
        first = f"image {after.image}, {after.cpus} vCPU, {after.memory_mib} MiB, {after.disk_bytes} bytes"
        return [f"created: {first}" if version == 1 else "the previous version is no longer stored"]
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(after)
    found = [
        f"{key}: {_shown(old[key])} → {_shown(new[key])}"
        for key in new
        if key not in (*_WHO, *_DEMANDS, "labels", "paused_epoch") and old[key] != new[key]
    ]
    if before.paused_epoch != after.paused_epoch and after.power == before.power:
        found.append("paused" if after.paused_epoch else "resumed")
    was_said, said = demands_text(before), demands_text(after)
    found += [f"no longer {text}" for text in was_said if text not in said]
    found += [text for text in said if text not in was_said]
    if before.placement.move != after.placement.move:
        found.append(f"running, it {'follows its pin' if after.placement.move == 'cold' else 'stays'}")
    for key in sorted(before.labels.keys() | after.labels.keys()):
        was, now = before.labels.get(key), after.labels.get(key)
        if was != now:
            found.append(f"label {key} removed" if now is None else f"label {key}={now}")
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
