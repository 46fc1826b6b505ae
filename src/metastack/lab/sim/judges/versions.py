"""The judge of an upgrade: before the level rises, the release before reads all that is written."""

from __future__ import annotations

from ....core.state.record_versions import LEVEL
from ....core.transaction import KeyEvent
from ..engine.etcd import RESTORED
from ..engine.lab import Lab
from ..engine.older_release import older
from ..engine.older_store import GARBLED


def judge_versions(lab: Lab) -> None:
    """From now on: before the level rises, all that is written is read by the release before."""

    def committed(name: str, revision: int, events: tuple[KeyEvent, ...]) -> None:
        level = lab.level
        if name == RESTORED or level >= LEVEL:
            return
        for event in events:
            if event.entry is None or event.entry.value == GARBLED or event.key == lab.keys.cluster():
                continue
            if why := older(level).reads(lab.keys, event.entry):
                lab.violation("too_new", f"{name} at {revision}: {why}")

    lab.cluster.listeners.append(committed)
