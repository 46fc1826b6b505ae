"""Lists, once or for ever.

Owns: ``--watch``: the list first, then every object that changed. Refuses: deciding what an object is.
Rule: what a watch prints last about an object is what it is now; the last word about one that is gone has
``deleted`` set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from metastack.commands.reading import follow, read_world
from metastack.commands.request import Cluster
from metastack.core.state.cluster_state import ClusterState

from .output import Printer


class View(Protocol):
    """Any view that is listed."""

    name: str
    deleted: bool


V = TypeVar("V", bound=View)


async def print_list(
    cluster: Cluster,
    wanted: Sequence[str],
    make: Callable[[ClusterState], list[V]],
    printer: Printer[V],
    watch: bool,
    key: Callable[[V], Any],
) -> None:
    """Print the list; with ``watch`` go on with what changes, until interrupted."""
    if not watch:
        printer.list(make(await read_world(cluster, wanted)))
        return
    async with follow(cluster, wanted) as follower:
        before: dict[Any, V] = {}
        while True:
            now = {key(view): view for view in make(follower.world)}
            gone = [_last_word(view) for ident, view in before.items() if ident not in now]
            printer.stream([view for ident, view in now.items() if before.get(ident) != view] + gone)
            before = now
            await follower.changed()


def _last_word(view: V) -> V:
    """The view of an object that is gone."""
    fields: dict[str, Any] = {"deleted": True, "message": "deleted"}
    if hasattr(view, "phase"):
        fields |= {"phase": None, "node": None, "epoch": None, "session": None, "since": None, "ips": []}
    return replace(view, **fields)  # type: ignore[type-var]
