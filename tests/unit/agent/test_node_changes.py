"""Which announcements are news: whoever comes, goes or changes, and not whose sums do."""

from __future__ import annotations

from typing import Any

from metastack.agent.cache.node_changes import NodeChanges
from metastack.core.model import NodeAlive, Resources
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys
from metastack.core.transaction import Batch, Entry, KeyEvent, Snapshot

KEYS = Keys()


class Told:
    def __init__(self) -> None:
        self.world = ClusterState(KEYS)
        self.world.load(Snapshot(1, ()))
        self.announced = NodeChanges("n1")
        self.created = 0

    def say(self, node: str = "n2", anew: bool = False, **more: Any) -> bool:
        """True when that is news."""
        revision = self.world.revision + 1
        if anew or not self.created:
            self.created = revision
        value = encode(NodeAlive(name=node, **more))
        key = KEYS.node_alive(node)
        return self._event(KeyEvent(key, revision, Entry(key, value, self.created, revision, 1)))

    def vanish(self, node: str = "n2") -> bool:
        return self._event(KeyEvent(KEYS.node_alive(node), self.world.revision + 1, None))

    def _event(self, event: KeyEvent) -> bool:
        touched = self.world.apply(Batch(event.revision, (event,)))
        return bool(self.announced.news(touched, self.world))


def test_sums_are_no_news() -> None:
    told = Told()
    assert told.say(ready=True)
    assert not told.say(ready=True, vms=3, allocated=Resources(cpus=3, memory_mib=512))
    assert not told.say(ready=True, vms=3, lag_ms=64)


def test_joining_leaving_and_changed_nodes_are_news() -> None:
    told = Told()
    told.say(ready=True)
    assert told.say(ready=False)
    assert told.say(ready=False, anew=True), "another session that says the same"
    assert told.vanish()
    assert told.vanish()
    assert told.say(ready=False, vms=1), "it came back"


def test_my_own_word_is_always_news() -> None:
    told = Told()
    assert told.say("n1", ready=True)
    assert told.say("n1", ready=True, vms=1)
