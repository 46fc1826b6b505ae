"""The store of an agent of an older release: its codec stands between etcd and today's agent.

Owns: what such an agent reads and writes. Refuses: old behaviour: today's agent runs there.
Rule: a record that the older codec does not read is a violation, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Final

from msgspec.structs import replace

from ....core.state.keys import Keys
from ....core.transaction import Batch, Entry, KeyEvent, Outcome, Put, Snapshot, Transaction
from ....ports import Store
from ....ports.wrapped_store import WrappedStore
from .older_release import Older

GARBLED: Final = b'{"v":99}'
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
        if not name or entry.value == GARBLED:
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
        self, prefix: str, after_revision: int, without: tuple[str, ...] = (), until: str = ""
    ) -> AsyncGenerator[Batch, None]:
        async for batch in self._inner.watch(prefix, after_revision, without, until):
            yield replace(batch, events=tuple(map(self._event, batch.events)))
