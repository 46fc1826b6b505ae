"""The platform's configuration, ``config/cluster``: typed, bounded, live.

Owns: turning ``KEY=VALUE`` into a record that every agent accepts. Refuses: unknown names and values out of
bounds, before anything is written. Rule: types and bounds are the record's own, so there is one list of them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.inspect import FloatType, IntType, type_info
from msgspec.structs import fields, replace

from metastack.core.model import ClusterConfig
from metastack.core.state.codec import encode
from metastack.core.syslog_target import parse_syslog_target
from metastack.core.transaction import Guard, Put

from .. import names
from ..problem import usage
from ..request import Cluster, Plan, Request, Unchanged, commit, readable


class Setting(Struct, frozen=True, kw_only=True):
    """One setting as it is and as it would be by default."""

    key: str
    value: Any
    default: Any
    changed: bool
    range: str
    """What it may be, in words."""
    description: str


SETTINGS = tuple(field for field in fields(ClusterConfig) if field.name != "v")


async def show_settings(cluster: Cluster) -> list[Setting]:
    """Every setting."""
    config, texts = await cluster.config(), _docstrings()
    return [
        Setting(
            key=field.name,
            value=getattr(config, field.name),
            default=field.default,
            changed=getattr(config, field.name) != field.default,
            range=in_words(field.name),
            description=texts.get(field.name, ""),
        )
        for field in SETTINGS
    ]


_UNITS = {
    "_s": "seconds",
    "_ms": "milliseconds",
    "_mib": "MiB",
    "_percent": "percent",
    "_days": "days",
    "_versions": "versions",
}
_TEXTS = {
    "record_version": "set by `metastack cluster upgrade-finish` only",
    "fencing": "address, or client for nodes that share an address (weaker)",
    "on_host_shutdown": "release, return or leave",
    "default_network": "name of a bridge, none, or empty",
    "default_pool": "name of a pool",
    "syslog": "tcp://HOST:PORT, or empty",
}


def in_words(key: str) -> str:
    """What a setting may be, such as ``a whole number of seconds from 2 to 60``."""
    if key in _TEXTS:
        return _TEXTS[key]
    kind = type_info(next(field.type for field in SETTINGS if field.name == key))
    assert isinstance(kind, IntType | FloatType)
    number = "a whole number" if isinstance(kind, IntType) else "a number"
    unit = next((f" of {unit}" for suffix, unit in _UNITS.items() if key.endswith(suffix)), "")
    low, high = (f"{bound:f}".rstrip("0").rstrip(".") for bound in (kind.ge or 0, kind.le or 0))
    return f"{number}{unit} from {low} to {high}"


def _docstrings() -> dict[str, str]:
    """What the record's source says of each setting; empty where there is no source."""
    import ast
    import inspect

    try:
        tree = ast.parse(inspect.getsource(ClusterConfig))
    except (OSError, TypeError, SyntaxError):
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    found = {}
    for field, text in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
        ):
            found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` each; raises Problem naming the key, its type and its bounds."""
    known = {field.name: field for field in SETTINGS}
    out: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise usage("config", f"{text!r} is not KEY=VALUE", "such as lease_ttl_s=5")
        _known(key)
        if key in out:
            raise usage(f"config {key}", "is given twice")
        try:
            out[key] = msgspec.convert(value.strip(), known[key].type, strict=False)
        except msgspec.ValidationError:
            raise usage(f"config {key}", f"{in_words(key)}, not {value!r}") from None
        _further(key, out[key])
    return out


def _known(key: str) -> None:
    known = sorted(field.name for field in SETTINGS)
    if key not in known:
        raise usage(f"config {key}", "is not a setting", f"the settings are {', '.join(known)}")
    if key == "record_version":
        # By hand it could pass what a node understands, or fall below what is written already.
        raise usage(f"config {key}", "cannot be set by hand", "`metastack cluster upgrade-finish` raises it")


def defaults_of(keys: list[str]) -> dict[str, Any]:
    """The defaults of some settings; raises Problem for what is none."""
    for key in keys:
        _known(key)
    return {field.name: field.default for field in SETTINGS if field.name in keys}


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


async def set_settings(
    cluster: Cluster, request: Request, values: dict[str, Any], what: str = "config.set"
) -> bool:
    """Change settings; agents follow at once. False when they were so already."""
    names.reason(request.reason)
    key = cluster.keys.cluster()

    async def look() -> Plan[bool] | Unchanged[bool]:
        found = await cluster.read(ClusterConfig, key)
        before = readable(found, "config") if found is not None else ClusterConfig()
        after = replace(before, **values)
        if after.crash_backoff_max_s < after.crash_backoff_s:
            raise usage("config crash_backoff_max_s", "must not be less than crash_backoff_s")
        if after == before:
            return Unchanged(False)
        return Plan(
            guards=(Guard(key, "mod", found.mod if found is not None else 0),),
            effects=(Put(key, encode(after)),),
            what=what,
            object="config",
            message=" ".join(f"{name}={value}" for name, value in values.items()),
            answer=True,
        )

    return await commit(cluster, request, look)
