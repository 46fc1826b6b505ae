"""What is left of an upgrade: whose agents are of the release before, and what its end would change. Pure."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from metastack.core.model import RECORDS
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import current
from metastack.core.state.record_versions import LEVEL, RELEASES


class UpgradeView(Struct, kw_only=True):
    """The end of an upgrade: what it is about to do, or what it did."""

    level: int
    """The record level that it raises to, or raised to."""
    before: int
    done: bool
    """The cluster writes records of this level."""
    records: list[str]
    """Kinds of record that get another version."""
    behind: list[str]
    """Nodes whose agents cannot read them, and why."""
    silent: list[str]
    """Nodes that joined and are not alive: nobody knows what their agents understand."""
    without: list[str]
    """Of the silent ones, those that a person left out."""


def understood(world: ClusterState, node: str) -> int:
    """The record level that a living node's agent understands; 0: it is not alive, or cannot be read."""
    alive = world.alive(node)
    if alive is None or alive.record is None:
        return 0
    return alive.record.record_version or 1


def behind(world: ClusterState, level: int = LEVEL) -> list[tuple[str, str]]:
    """Living nodes whose agents understand less than that level, and why, by name."""
    found = []
    for name in sorted(world.nodes()):
        alive = world.alive(name)
        if alive is None:
            continue
        if alive.record is None:
            found.append((name, f"its alive record cannot be read: {alive.why}"))
        elif (knows := understood(world, name)) < level:
            version = alive.record.versions.get("metastack", "of an unknown version")
            found.append((name, f"its agent {version} reads records of level {knows}"))
    return found


def unfinished(world: ClusterState) -> str:
    """What is left of an upgrade that began; empty: nothing, or none began."""
    config = world.known_config
    if config.why or world.level >= LEVEL:
        return ""
    living = [name for name in world.nodes() if world.alive(name) is not None]
    old = [name for name, _ in behind(world)]
    if not living or len(old) == len(living):
        return ""
    if old:
        return (
            f"an upgrade is in progress: the agents of {', '.join(old)} run the previous release; "
            f"records stay at level {world.level} until all are upgraded"
        )
    return (
        f"an upgrade is unfinished: every live node reads records of level {LEVEL}, but the cluster writes "
        f"level {world.level}: run `metastack cluster upgrade-finish`"
    )


def upgrade_view(world: ClusterState, without: Collection[str] = ()) -> UpgradeView:
    """What finishing the upgrade would do to this world. Pure."""
    before = world.level
    versions = RELEASES[before].versions if before < LEVEL else {}
    silent = sorted(name for name in world.nodes() if world.alive(name) is None)
    return UpgradeView(
        level=max(LEVEL, world.config.record_version),
        before=before,
        done=before >= LEVEL,
        records=[
            f"{name}: {old} becomes {new}"
            for name, old in sorted(versions.items())
            if (new := current(RECORDS[name])) > old
        ],
        behind=[f"{name}: {why}" for name, why in behind(world)],
        silent=silent,
        without=[name for name in silent if name in without],
    )
