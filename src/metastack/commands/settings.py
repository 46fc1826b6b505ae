"""The platform's configuration, ``config/cluster``: typed, bounded, live.

Owns: turning ``KEY=VALUE`` into a record that every agent accepts. Refuses: unknown names and values out of
bounds, before anything is written. Rule: types and bounds are the record's own, so there is one list of them.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import fields, replace

from metastack.core.change import Guard, Put
from metastack.core.codec import encode
from metastack.core.model import ClusterConfig
from metastack.core.target import parse_syslog_target

from . import names
from .deed import Cluster, Deed, Kept, Plan, commit, readable
from .problem import usage


class Setting(Struct, frozen=True, kw_only=True):
    """One setting as it is and as it would be by default."""

    key: str
    value: Any
    default: Any
    changed: bool


SETTINGS = tuple(field for field in fields(ClusterConfig) if field.name != "v")


async def show_settings(cluster: Cluster) -> list[Setting]:
    """Every setting."""
    config = await cluster.config()
    return [
        Setting(
            key=field.name,
            value=getattr(config, field.name),
            default=field.default,
            changed=getattr(config, field.name) != field.default,
        )
        for field in SETTINGS
    ]


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` each; raises Problem naming the key, its type and its bounds."""
    known = {field.name: field for field in SETTINGS}
    out: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise usage("config", f"{text!r} is not KEY=VALUE", "such as lease_ttl_s=5")
        if key not in known:
            raise usage(f"config {key}", "is not a setting", f"the settings are {', '.join(sorted(known))}")
        if key in out:
            raise usage(f"config {key}", "is given twice")
        try:
            out[key] = msgspec.convert(value.strip(), known[key].type, strict=False)
        except msgspec.ValidationError as error:
            raise usage(f"config {key}", f"{value!r} is not valid: {error}") from None
        _further(key, out[key])
    return out


def _further(key: str, value: Any) -> None:
    """Bounds that a type cannot tell."""
    if key == "default_network" and value not in ("", "none"):
        names.bridge(value)
    if key == "default_pool" and (not value or len(value) > 63 or "/" in value or not value.isprintable()):
        raise usage("config default_pool", f"{value!r} is not the name of a pool")
    if key == "syslog":
        try:
            parse_syslog_target(value)
        except ValueError as error:
            raise usage("config syslog", str(error)) from None


async def set_settings(cluster: Cluster, deed: Deed, values: dict[str, Any]) -> bool:
    """Change settings; agents follow at once. False when they were so already."""
    names.reason(deed.reason)
    key = cluster.keys.cluster()

    async def look() -> Plan[bool] | Kept[bool]:
        found = await cluster.read(ClusterConfig, key)
        before = readable(found, "config") if found is not None else ClusterConfig()
        after = replace(before, **values)
        if after.crash_backoff_max_s < after.crash_backoff_s:
            raise usage("config crash_backoff_max_s", "must not be less than crash_backoff_s")
        if after == before:
            return Kept(False)
        return Plan(
            guards=(Guard(key, "mod", found.mod if found is not None else 0),),
            effects=(Put(key, encode(after)),),
            what="config.set",
            object="config",
            message=" ".join(f"{name}={value}" for name, value in values.items()),
            answer=True,
        )

    return await commit(cluster, deed, look)
