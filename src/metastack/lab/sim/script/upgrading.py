"""Upgrades in the simulator: hosts of the release before among new ones, and the end of an upgrade.

Owns: the verbs ``older`` and ``upgrade-finish``, and the schedule of an upgrade.
Refuses: the older release's codec (engine/older_store) and what it must be able to read (judges/versions).
"""

from __future__ import annotations

from dataclasses import replace as with_
from random import Random
from typing import Final

from msgspec.structs import replace

from ....commands.cluster.upgrade import NEEDED
from ....commands.cluster.upgrade_views import upgrade_view
from ....core.model import ClusterConfig
from ....core.state.cluster_state import ClusterState
from ....core.state.record_versions import LEVEL
from ....core.transaction import Snapshot
from ..engine.lab import Lab
from .script import Script, Step
from .verbs import Undo, fault, host_of, nothing

UPGRADES: Final = frozenset({"older", "upgrade-finish"})
"""These verbs: no cell of coverage is theirs."""
_STOPPED_S: Final = 1.0
"""Between the end of one release's agent and the start of the next one's."""


@fault("older", "node", lasts=True)
def _older(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The agent is of the release before (its codec), until it is upgraded at the end."""
    host = host_of(lab, args)
    if lab.level >= LEVEL or host.understands < LEVEL:
        return None

    def becomes(level: int) -> None:
        host.understands = level

        def again() -> None:
            if host.process is not None:  # still on its way out: it has had its time
                host.crash()
            host.start()

        if host.stop():
            lab.later(_STOPPED_S, again)

    becomes(LEVEL - 1)
    return lambda: becomes(LEVEL)


@fault("upgrade-finish", "cluster")
def _upgrade_finish(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A person finishes the upgrade (``metastack cluster upgrade-finish``), if every agent is new."""
    world = ClusterState(lab.keys)
    entries = [entry for prefix in lab.keys.prefixes(NEEDED) for entry in lab.cluster.under(prefix)]
    world.load(Snapshot(revision=lab.cluster.revision, entries=tuple(entries)))
    view, found = upgrade_view(world), world.settings_seen()
    if view.done or view.behind or view.silent or (found is not None and found.record is None):
        return None
    config = found.ok if found is not None else ClusterConfig()
    lab.put(lab.keys.cluster(), replace(config, record_version=LEVEL))
    return nothing


def mixed(script: Script) -> Script:
    """The same script in a cluster that is being upgraded meanwhile: every agent is old at first."""
    random, until_s = Random(f"{script.seed}/upgrade"), script.until_s
    steps = list(script.steps)
    over = random.random() < 0.5  # or the upgrade lasts until everything is healed
    for number in range(1, script.nodes + 1):
        end_s = random.uniform(0.1, 0.55) * until_s if over or random.random() < 0.5 else until_s
        steps.append(Step(0.0, "older", (f"n{number}",), end_s))
    if random.random() < 0.5:  # somebody goes back to the release before, for a while
        node = f"n{random.randint(1, script.nodes)}"
        steps.append(Step(0.6 * until_s, "older", (node,), random.uniform(1.0, 0.1 * until_s)))
    steps += [Step(share * until_s, "upgrade-finish") for share in (0.3, 0.5, 0.65, 0.75, 0.8, 0.85, 0.9, 0.95)]
    return with_(script, config=(*script.config, ("record_version", "1")), steps=tuple(steps))
