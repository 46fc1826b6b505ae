"""What is left of a one-machine cluster whose record is gone, such as when somebody deleted its state folder.

Owns: finding it without the record: processes by their marker, the fabric by its mount or by where those
processes live, the context by its paths. Refuses: ending or removing any of it.
Rule: only what names this cluster's own folder is its; a route names nobody, so one of which no namespace
is left is told, not taken away.
"""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from metastack import contexts
from metastack.contexts import ContextError
from metastack.ports import NotFound, Refused

from . import proc
from .fabric import Fabric, Subnets, tool_environment
from .layout import Layout, State, base, clusters
from .proc import Proc

_CONTROL: Final = ipaddress.IPv4Network("10.77.0.0/16")
"""Every cluster's control network lies in it (:class:`.fabric.Subnets`)."""


def processes(layout: Layout) -> list[Proc]:
    """Every process of the cluster, recorded or not."""
    return [one for folder in (layout.folder, layout.short) for one in proc.marked(folder)]


def refuse(layout: Layout) -> None:
    """Raise Refused while something of an earlier cluster of this name lives that no record knows."""
    if os.path.ismount(layout.fabric) or processes(layout):
        raise Refused(
            f"cluster {layout.name} still runs, but its record in {layout.folder} is gone: "
            f"`metastack dev down --name {layout.name}` ends it"
        )


def any_left(layout: Layout) -> bool:
    """Whether anything of it is left."""
    return layout.folder.exists() or layout.short.exists() or bool(processes(layout)) or has_context(layout)


def record(layout: Layout) -> State | None:
    """The record, if there is one that can be read."""
    try:
        return layout.load()
    except Refused:
        return None  # the marker finds the processes


def losses(layout: Layout) -> str:
    """What taking the cluster away takes away, in words. Raises NotFound when nothing is left of it."""
    if not any_left(layout):
        raise NotFound(f"there is no cluster {layout.name} in {base()}")
    state = record(layout)
    if state is None:
        return f"the remains of {layout.folder}, whose record is gone, and its context"
    nodes = f"{len(state.nodes)} node" + ("s" if len(state.nodes) > 1 else "")
    return (
        f"{nodes} ({', '.join(state.nodes)}), every VM, disk and image in its {state.storage} storage, etcd, "
        f"{layout.folder} and its context"
    )


def has_context(layout: Layout) -> bool:
    """Whether the context of its name is its own: one that leads into its folder."""
    try:
        context = contexts.load().contexts.get(layout.name)
    except ContextError:
        return False
    below = f"{layout.folder}/"
    return context is not None and any(below in text for text in (context.netns, *context.store.endpoints))


def fabric(layout: Layout, living: Sequence[Proc]) -> Fabric | None:
    """The cluster's fabric, its number read from inside; None when nothing tells it."""
    spaces = [layout.fabric] if os.path.ismount(layout.fabric) else []
    spaces += [Path(f"/proc/{one.pid}/ns/net") for one in living]
    for space in spaces:
        if (index := _index(space)) is not None:
            return Fabric(layout.fabric, index)
    return None


def _index(space: Path) -> int | None:
    """The number of the cluster to which a network namespace belongs."""
    try:
        if os.stat(space).st_ino == os.stat("/proc/self/ns/net").st_ino:
            return None
    except OSError:
        return None
    found = subprocess.run(
        ["nsenter", f"--net={space}", "--", "ip", "-j", "-4", "address"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env=tool_environment(),
    )
    if found.returncode:
        return None
    for link in json.loads(found.stdout or "[]"):
        for entry in link.get("addr_info", ()):
            address = ipaddress.IPv4Address(entry["local"])
            if address in _CONTROL:
                return address.packed[2]
    return None


def stray_routes() -> list[str]:
    """Commands that remove the unreachable routes that no cluster of this state folder has."""
    known = {other.index for name in clusters() if (other := Layout(name).load())}
    found = subprocess.run(
        ["ip", "-j", "-4", "route", "show", "type", "unreachable"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env=tool_environment(),
    )
    routes = {row.get("dst", "") for row in json.loads(found.stdout or "[]")} if not found.returncode else set()
    stray = []
    for index in range(256):
        subnets = Subnets(index)
        nets = [str(net) for net in (subnets.control, subnets.guests) if str(net) in routes]
        stray += [f"ip route del unreachable {net}" for net in nets if index not in known]
    return stray
