"""The end of an upgrade: from when on records are written that the release before cannot read.

Owns: who stands in the way, and the write that raises ``config/cluster.record_version``.
Refuses: upgrading anything; that is the package manager's, one node after the other.
Rule: before it every agent of the release before reads everything and may come back; after it none may.
So every node that joined has to have said what it understands; one that is silent, only a person leaves out.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from metastack.core.model import ClusterConfig
from metastack.core.state.cluster_state import ClusterState, mod_of
from metastack.core.state.codec import encode
from metastack.core.state.keys import Kind
from metastack.core.state.record_versions import LEVEL
from metastack.core.transaction import Guard, Put

from .. import names
from ..problem import Code, Problem, usage
from ..reading import read_world
from ..request import Cluster, Plan, Request, Unchanged, commit, readable
from .upgrade_views import UpgradeView, upgrade_view

NEEDED = (Kind.CLUSTER, Kind.NODE_ALIVE, Kind.NODE_FACTS)


async def look_at_upgrade(cluster: Cluster, without: Collection[str] = ()) -> UpgradeView:
    """What it would do now; raises Problem when the settings cannot be read."""
    world = await read_world(cluster, cluster.keys.prefixes(NEEDED))
    _settings(world)
    return upgrade_view(world, without)


async def finish_upgrade(cluster: Cluster, request: Request, without: Collection[str] = ()) -> UpgradeView:
    """Raise the record level to this program's; raises Problem while a node would not read what follows.

    Safety: a node that registers with an older agent a moment later is as one that does so an hour later. It
    cannot read what is newer, leaves it alone, and `doctor` names it; whatever it writes, everybody reads.
    """
    names.reason(request.reason)
    key = cluster.keys.cluster()

    async def look() -> Plan[UpgradeView] | Unchanged[UpgradeView]:
        world = await read_world(cluster, cluster.keys.prefixes(NEEDED))
        config, view = _settings(world), upgrade_view(world, without)
        if view.done:
            return Unchanged(view)
        _refuse(world, view, without)
        view.done = True
        return Plan(
            guards=(Guard(key, "mod", mod_of(world.settings_seen())),),
            effects=(Put(key, encode(replace(config, record_version=LEVEL))),),
            what="cluster.upgrade-finish",
            object="cluster",
            message=f"records of level {LEVEL}, before {view.before}",
            answer=view,
        )

    return await commit(cluster, request, look)


def _settings(world: ClusterState) -> ClusterConfig:
    found = world.settings_seen()
    return readable(found, "config") if found is not None else ClusterConfig()


def _refuse(world: ClusterState, view: UpgradeView, without: Collection[str]) -> None:
    for name in without:
        if name not in view.silent:
            here = (
                "is alive, so its agent reports which records it reads"
                if name in world.nodes()
                else "does not exist"
            )
            raise usage(f"node {name}", f"--without: {here}", "leave out only nodes that are switched off")
    if view.behind:
        raise Problem(
            Code.FAILED,
            "cluster",
            f"some nodes cannot read records of level {view.level}: {'; '.join(view.behind)}",
            "upgrade these agents, then run this command again",
        )
    if left := [name for name in view.silent if name not in view.without]:
        options = " ".join(f"--without {name}" for name in left)
        raise Problem(
            Code.FAILED,
            "cluster",
            f"the release of nodes that are not alive is unknown: {', '.join(left)}",
            f"start them, or, if their agents are upgraded before they return: {options}",
        )
