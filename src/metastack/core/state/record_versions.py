"""Which version each kind of record is written in, so that a cluster can be upgraded node by node.

Owns: the record levels, and every rewriting of a record for readers of an older level.
Refuses: reading; a program reads every version up to its newest, whatever the cluster's level is.
Rule: writers keep to ``config/cluster.record_version``. A writer that knows a level that is too low writes
records that every reader reads; so a level that is not known is 1.

A level is a release's set of versions. Writing for an older one changes three things of a record:

- its ``v`` becomes the one of that level;
- what people ask for (``DEMANDS``) loses the fields that came later, and a command that would lose something
  is refused. An older program that edits the record would lose them silently;
- values that an older reader cannot parse are replaced (``RecordRelease.earlier``).

Newer fields of what agents say stay: older readers ignore them, newer ones need not wait for the upgrade's end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from ..model import RECORDS, ClusterConfig, Record
from ..transaction import Delete, Put, Transaction
from .codec import Unreadable, current, decode, encode
from .keys import Keys, Kind

R = TypeVar("R", bound=Record)

LEVEL: Final = 2
"""The newest level: what this program understands, and what new clusters begin with."""

Tree = Mapping[str, "Tree | None"]
"""Fields of a record by name; None: kept whole, whatever is in it."""
Raw = dict[str, Any]
"""A record as JSON has it."""


class RecordRelease(Struct, frozen=True, kw_only=True):
    """What the programs of one level understand, where that differs from today's."""

    versions: Mapping[str, int]
    """Newest version of each kind of record, by the name in ``model.RECORDS``."""
    demands: Mapping[str, Tree]
    """Every field of the kinds that people write."""
    earlier: Mapping[str, Callable[[Raw], Raw]]
    """Kind of record to what replaces values of the level above that this level cannot parse."""


KINDS: Final[Mapping[Kind, str]] = {
    Kind.CLUSTER: "cluster",
    Kind.GENERATION: "generation",
    Kind.ADMISSION: "admission",
    Kind.IMAGE: "image",
    Kind.PROJECT: "project",
    Kind.VM_SPEC: "vm_spec",
    Kind.NODE_SPEC: "node_spec",
    Kind.CLAIM: "claim",
    Kind.NODE_FACTS: "node_facts",
    Kind.FENCE: "fence",
    Kind.HALT: "halt",
    Kind.GROUP: "group",
    Kind.HINT: "hint",
    Kind.LEADER: "leader",
    Kind.NODE_ALIVE: "node_alive",
    Kind.VM_STATUS: "vm_status",
    Kind.VOLUME: "volume",
    Kind.EVENT: "event",
    Kind.HISTORY: "vm_spec",
    Kind.TICKET: "ticket",
    Kind.REFUSAL: "refusal",
}
"""What is written at a key. Kinds that came after the oldest level need not be here until they change."""


def _fields(names: str, **inner: Tree) -> Tree:
    return {**dict.fromkeys(names.split()), **inner}


def _phases(**earlier: str) -> Callable[[Raw], Raw]:
    """The nearest phase that older readers know. The message says what it is."""
    return lambda raw: {**raw, "phase": earlier.get(raw["phase"], raw["phase"])}


RELEASES: Final[Mapping[int, RecordRelease]] = {
    1: RecordRelease(
        versions={
            "cluster": 2, "admission": 1, "project": 1, "image": 1, "vm_spec": 2, "node_spec": 2, "claim": 2,
            "node_facts": 2, "fence": 2, "halt": 1, "group": 1, "hint": 1, "leader": 1, "volume": 2,
            "node_alive": 2, "vm_status": 2, "event": 1, "ticket": 1, "generation": 1, "refusal": 1,
        },
        demands={
            "cluster": _fields(
                "lease_ttl_s grace_s overcommit_cpu overcommit_memory host_reserve_mib rank_delay_ms "
                "weight_spread weight_pack weight_balanced weight_image weight_last_node spare_nodes "
                "boots_at_once brake_percent brake_window_s fencing stop_timeout_s trash_retention_s "
                "crash_backoff_s crash_backoff_max_s full_look_s event_retention_days history_versions "
                "default_network default_pool syslog"
            ),
            "vm_spec": _fields(
                "project name uuid image image_uuid volume_uuid cpus memory_mib disk_bytes power run force "
                "paused_epoch labels resources created by reason request_id",
                nics=_fields("bridge mac"),
                placement=_fields(
                    "node move node_selector arch cpu_features",
                    expressions=_fields("key operator values"),
                    tolerations=_fields("key value"),
                    affinity=_fields("labels topology required weight"),
                    anti_affinity=_fields("labels topology required weight"),
                    spread=_fields("labels topology max_skew required weight"),
                ),
                ha=_fields("priority start_after ready_port"),
            ),
            "node_spec": _fields(
                "cordoned draining labels overcommit_cpu overcommit_memory overcommit by reason request_id",
                taints=_fields("key value effect"),
            ),
        },
        earlier={"vm_status": _phases(waiting="starting", stalled="running")},
    ),
}  # fmt: skip
"""Every level below the newest, frozen: what its programs read does not change any more."""


def written(change: Transaction, keys: Keys, level: int) -> Transaction:
    """The change as a writer of that level puts it. Costs nothing at the newest level."""
    if level >= LEVEL:
        return change
    effects = tuple(e if isinstance(e, Delete) else _put(e, keys, level) for e in change.effects)
    return msgspec.structs.replace(change, effects=effects)


def settings_level(config: ClusterConfig) -> int:
    """The level that holds under these settings, as far as this program knows it."""
    return min(config.record_version, LEVEL)


def lost(change: Transaction, keys: Keys, level: int) -> list[str]:
    """Fields that a person filled and that no record of that level has."""
    found: list[str] = []
    for effect in change.effects if level < LEVEL else ():
        parsed = keys.parse(effect.key)
        if isinstance(effect, Delete) or parsed is None or parsed.kind is Kind.HISTORY:
            continue
        name = KINDS.get(parsed.kind, "")
        if name in RELEASES[level].demands:
            found += _lost(name, effect, _put(effect, keys, level))
    return found


def _lost(name: str, new: Put, old: Put) -> list[str]:
    if new is old:
        return []
    try:
        before, after = (decode(RECORDS[name], put.value, put.key) for put in (new, old))
    except Unreadable:
        return []
    return [
        field.name
        for field in msgspec.structs.fields(before)
        if field.name not in ("v", "record_version")
        and getattr(before, field.name) != getattr(after, field.name)
    ]


def _put(put: Put, keys: Keys, level: int) -> Put:
    parsed = keys.parse(put.key)
    name = KINDS.get(parsed.kind) if parsed is not None else None
    if name is None or RELEASES[level].versions.get(name, 0) >= current(RECORDS[name]):
        return put
    value = older(name, put.value, level)
    return put if value is put.value else msgspec.structs.replace(put, value=value)


def older(name: str, value: bytes, level: int) -> bytes:
    """A record's bytes for readers of that level; the very same when they read it as it is."""
    raw = msgspec.json.decode(value)
    if name == "cluster":
        # It says itself which level holds: raising the level is a write, and so is every change before that.
        level = min(LEVEL, max(level, raw.get("record_version", 1)))
    if level >= LEVEL or raw.get("v", 1) <= RELEASES[level].versions.get(name, raw.get("v", 1)):
        return value
    for below in range(LEVEL - 1, level - 1, -1):
        replace = RELEASES[below].earlier.get(name)
        raw = replace(raw) if replace is not None else raw
    known = RELEASES[level].demands.get(name)
    if known is not None:
        raw = _only(raw, {"v": None, **known})
    raw["v"] = RELEASES[level].versions[name]
    return msgspec.json.encode(raw)


def as_written_at(record: R, level: int) -> R:
    """What readers find when a writer of that level puts this record: compare with that what is there."""
    kind = type(record)
    name = _names().get(kind, "")
    if all(name not in RELEASES[below].earlier for below in range(level, LEVEL)):
        return record
    return decode(kind, older(name, encode(record), level))


@cache
def _names() -> dict[type[Record], str]:
    return {kind: name for name, kind in RECORDS.items()}


def _only(raw: Any, known: Tree) -> Any:
    if isinstance(raw, list):
        return [_only(one, known) for one in raw]
    if not isinstance(raw, dict):
        return raw
    return {
        name: value if (inner := known[name]) is None else _only(value, inner)
        for name, value in raw.items()
        if name in known
    }


def settings_bytes(config: ClusterConfig) -> bytes:
    """The settings in the version of their own level."""
    return older("cluster", encode(config), settings_level(config))
