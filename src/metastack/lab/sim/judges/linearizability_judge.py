"""The linearizability judge: whatever an agent was told was true at one moment between question and answer.

Owns: a picture of etcd's history of its own, made of the events of every revision, and what must hold between
that and each answer. Refuses: using anything of the twin that answers (its entries, its compares).
Rule: linearizable where the port says so (``get``, ``list``, ``commit``). A watch is not: it is late, and
another judge compares what agents folded. Where a restore came in between nothing is judged: two histories
have no order.

* ``get``: the entry of some revision that was etcd's between question and answer;
* ``list``: all entries under the prefixes at the revision that it names, which is one of those;
* ``commit`` that succeeded: its revision came in between, every compare held right before, and its events are
  the effects, no more and no less; or it had nothing to delete, and every compare held;
* ``commit`` that lost: at the revision that it names, which is one of those, some compare did not hold.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ....core.transaction import (
    Committed,
    Delete,
    Entry,
    Guard,
    KeyEvent,
    Outcome,
    Put,
    Snapshot,
    Transaction,
)
from ..engine.etcd import RESTORED, SimCluster

T = TypeVar("T")


class LinearizabilityJudge:
    """Judges the answers of one simulated etcd."""

    def __init__(self, cluster: SimCluster, violation: Callable[[str, str], None]) -> None:
        self._cluster, self._violation = cluster, violation
        self._versions: dict[str, list[tuple[int, Entry | None]]] = {}
        """Of each key, every revision that touched it, in order."""
        self._events: dict[int, tuple[KeyEvent, ...]] = {}
        cluster.listeners.append(self._committed)

    def _committed(self, by: str, revision: int, events: tuple[KeyEvent, ...]) -> None:
        if by == RESTORED:
            self._versions, self._events = {}, {}
        else:
            self._events[revision] = events
        for event in events:
            self._versions.setdefault(event.key, []).append((revision, event.entry))

    async def during(
        self, what: str, request: Callable[[], Coroutine[Any, Any, T]], judge: Callable[[T, int, int], str]
    ) -> T:
        """Make a request and judge its answer; the judge gets it and the revisions at its two ends."""
        cluster = self._cluster
        asked, era = cluster.revision, cluster.era
        answer = await request()
        if cluster.era == era and not cluster.astray and (wrong := judge(answer, asked, cluster.revision)):
            self._violation("linearizable", f"{what} between {asked} and {cluster.revision}: {wrong}")
        return answer

    def got(self, key: str) -> Callable[[Entry | None, int, int], str]:
        """The judge of one ``get``."""

        def judge(answer: Entry | None, first: int, last: int) -> str:
            true = {first, *(at for at, _ in self._versions.get(key, ()) if first < at <= last)}
            if any(self._at(key, revision) == answer for revision in true):
                return ""
            return f"{key} never was {_told(answer)}"

        return judge

    def listed(self, *prefixes: str) -> Callable[[Snapshot, int, int], str]:
        """The judge of one ``list``."""

        def judge(answer: Snapshot, first: int, last: int) -> str:
            if not first <= answer.revision <= last:
                return f"it is of {answer.revision}"
            entries = {entry.key: entry for entry in answer.entries}
            for key in self._versions:
                there = self._at(key, answer.revision) if key.startswith(prefixes) else None
                if there is not None and entries.get(key) != there:
                    return f"{key} is not in it as {_told(there)}"
            gone = next((key for key in entries if self._at(key, answer.revision) is None), "")
            return f"{gone} was not there at {answer.revision}" if gone else ""

        return judge

    def told(self, change: Transaction) -> Callable[[Outcome, int, int], str]:
        """The judge of one ``commit``."""

        def judge(answer: Outcome, first: int, last: int) -> str:
            at, compared = answer.revision, change.guards
            if not isinstance(answer, Committed):
                if not first <= at <= last:
                    return f"it lost at {at}"
                return "" if any(not self._holds(guard, at) for guard in compared) else "it lost, and held"
            events = self._events.get(at, ())
            if self._idle(change, events):
                before, wrong = at, "" if first <= at <= last else f"it was committed at {at}"
            else:
                before = at - 1
                wrong = self._differs(change, at, events) if first < at <= last else f"it was committed at {at}"
            failed = [guard for guard in compared if not self._holds(guard, before)]
            return f"{failed[0]} did not hold at {before}" if failed else wrong

        return judge

    def _idle(self, change: Transaction, events: tuple[KeyEvent, ...]) -> bool:
        """It had nothing to put or to delete: that makes no revision, and it names the one before."""
        return not any(
            isinstance(effect, Put) or any(_covers(effect, event.key) for event in events)
            for effect in change.effects
        )

    def _differs(self, change: Transaction, at: int, events: tuple[KeyEvent, ...]) -> str:
        """What a revision did other than the effects say."""
        puts = {effect.key: effect for effect in change.effects if isinstance(effect, Put)}
        deletes = [effect for effect in change.effects if isinstance(effect, Delete)]
        for event in events:
            put = puts.pop(event.key, None)
            if put is None:
                if event.entry is not None or not any(_covers(one, event.key) for one in deletes):
                    return f"it changed {event.key} as well"
            elif event.entry is None or (event.entry.value, event.entry.mod_revision) != (put.value, at):
                return f"{event.key} became {_told(event.entry)}"
        if puts:
            return f"it did not put {min(puts)}"
        for key in self._versions:
            if self._at(key, at) is not None and any(_covers(one, key) for one in deletes):
                return f"it did not delete {key}"
        return ""

    def _holds(self, guard: Guard, revision: int) -> bool:
        entry = self._at(guard.key, revision)
        if entry is None:
            return guard.value == 0
        field = {
            "mod": entry.mod_revision,
            "create": entry.create_revision,
            "version": entry.version,
            "lease": entry.lease,
        }
        return field[guard.field] == guard.value

    def _at(self, key: str, revision: int) -> Entry | None:
        versions = self._versions.get(key, [])
        count = bisect_right(versions, revision, key=lambda version: version[0])
        return versions[count - 1][1] if count else None


def _covers(effect: Delete, key: str) -> bool:
    return effect.key <= key < effect.range_end if effect.range_end else key == effect.key


def _told(entry: Entry | None) -> str:
    return f"of {entry.mod_revision}" if entry is not None else "absent"
