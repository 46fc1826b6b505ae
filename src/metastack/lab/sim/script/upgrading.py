"""Upgrades in the simulator: hosts of the release before among new ones, and the end of an upgrade.

Owns: the verbs ``older`` and ``upgrade-finish``, what such a host's agent reads and writes, and the judge of
what may be written before the end. Refuses: old behaviour: today's agent runs there, with the older codec.
Rule: a record that the older codec does not read is a violation, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace as with_
from random import Random
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from ....commands.cluster.upgrade import NEEDED
from ....commands.cluster.upgrade_views import upgrade_view
from ....core.model import ClusterConfig
from ....core.protocol.transaction import Batch, Entry, KeyEvent, Outcome, Put, Snapshot, Transaction
from ....core.state.cluster_state import ClusterState
from ....core.state.keys import Keys
from ....core.state.record_versions import LEVEL
from ....ports import Store
from ....ports.wrapped_store import WrappedStore
from ..engine.etcd import RESTORED
from ..engine.older_release import Older, older
from .script import Script, Step
from .verbs import Undo, fault, host_of, nothing

if TYPE_CHECKING:
    from ..engine.lab import Lab

UPGRADES: Final = frozenset({"older", "upgrade-finish"})
"""These verbs: no cell of coverage is theirs."""
_STOPPED_S: Final = 1.0
"""Between the end of one release's agent and the start of the next one's."""
_GARBLED: Final = b'{"v":99}'
"""What a script writes to break a record for everybody."""


class OlderStore(WrappedStore):
    """The Store port with the codec of an older release between it and the agent."""

    def __init__(self, inner: Store, codec: Older, keys: Keys, refused: Callable[[str], None]) -> None:
        super().__init__(inner)
        self._codec, self._keys, self._refused = codec, keys, refused
        self._said: dict[str, tuple[bytes, bytes]] = {}
        """What it published last, as it is in etcd and as the agent said it."""

    def _read(self, entry: Entry) -> Entry:
        """As that release finds it: without the fields that it does not know."""
        said, meant = self._said.get(entry.key, (b"", b""))
        if entry.value == said:
            return replace(entry, value=meant)  # it finds what it said: there is nothing to say again
        name = self._codec.name(self._keys, entry.key)
        if not name or entry.value == _GARBLED:
            return entry
        if why := self._codec.reads(self._keys, entry):
            self._refused(why)
            return entry
        return replace(entry, value=self._codec.again(name, entry.value))

    def _event(self, event: KeyEvent) -> KeyEvent:
        return event if event.entry is None else replace(event, entry=self._read(event.entry))

    async def get(self, key: str) -> Entry | None:
        entry = await self._inner.get(key)
        return None if entry is None else self._read(entry)

    async def list(self, *names: str) -> Snapshot:
        snapshot = await self._inner.list(*names)
        return replace(snapshot, entries=tuple(map(self._read, snapshot.entries)))

    async def commit(self, change: Transaction) -> Outcome:
        older = self._codec.writes(self._keys, change)
        for meant, said in zip(change.effects, older.effects, strict=True):
            if isinstance(meant, Put) and isinstance(said, Put) and meant.leased:
                self._said[meant.key] = (said.value, meant.value)
        return await self._inner.commit(older)

    async def watch(
        self, prefix: str, after_revision: int, without: tuple[str, ...] = ()
    ) -> AsyncGenerator[Batch, None]:
        async for batch in self._inner.watch(prefix, after_revision, without):
            yield replace(batch, events=tuple(map(self._event, batch.events)))


def store_of(lab: Lab, node: str, wire: Store, understands: int) -> Store:
    """What the agent of that host is given."""
    if understands >= LEVEL:
        return wire
    return OlderStore(
        wire, older(understands), lab.keys, lambda why: lab.violation("refused", f"{node}: {why}")
    )


def judge(lab: Lab) -> None:
    """From now on: before the level rises, all that is written is read by the release before."""

    def committed(name: str, revision: int, events: tuple[KeyEvent, ...]) -> None:
        level = lab.level
        if name == RESTORED or level >= LEVEL:
            return
        for event in events:
            if event.entry is None or event.entry.value == _GARBLED or event.key == lab.keys.cluster():
                continue
            if why := older(level).reads(lab.keys, event.entry):
                lab.violation("too_new", f"{name} at {revision}: {why}")

    lab.cluster.listeners.append(committed)


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
