"""Events: a person's or a node's act on an object, when and why; the entries under ``events/``.

Owns: reading and following events, the words for "about this object" and "since then". Refuses: writing.
Rule: an event is shown as it was written; one that does not parse is shown as broken and stops nothing.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

from msgspec import Struct

from metastack.core.model import Event
from metastack.core.state.codec import Unreadable, decode
from metastack.core.state.keys import Kind
from metastack.core.transaction import Entry
from metastack.ports import Compacted

from ..names import DEFAULT_PROJECT
from ..problem import usage
from ..request import Cluster

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SPAN: Final = re.compile(r"([0-9]{1,6})([smhd])")
_AHEAD_MS: Final = 86_400_000
"""How far ahead of this machine's clock another's may be and its events still be found."""


class EventView(Struct, kw_only=True):
    """An event as a reader sees it."""

    id: str
    at: str | None = None
    by: str | None = None
    what: str | None = None
    object: str | None = None
    """Kind and name, such as ``vm default/hello``."""
    message: str | None = None
    reason: str | None = None
    request_id: str | None = None
    broken: bool = False


class EventFilter(Struct, frozen=True, kw_only=True):
    """Which events."""

    object: str = ""
    """``vm hello``, ``hello``, ``node n1``, ``config``; empty: all."""
    since_ms: int = 0


async def list_events(cluster: Cluster, wanted: EventFilter, now_ms: int) -> tuple[int, list[EventView]]:
    """The events that are kept, oldest first, and the revision that they were read at."""
    prefix = cluster.keys.prefix(Kind.EVENT)
    # Keys begin with the time: what both ends share need not be read twice.
    start, end = f"{wanted.since_ms:014d}", f"{now_ms + _AHEAD_MS:014d}"
    shared = next((n for n in range(len(start)) if start[n] != end[n]), len(start))
    snapshot = await cluster.store.list(prefix + start[:shared])
    # Within a millisecond keys sort by chance.
    at = len(prefix) + len(start)
    entries = sorted(snapshot.entries, key=lambda entry: (entry.key[:at], entry.mod_revision))
    return snapshot.revision, [view for one in entries if (view := _chosen(one, prefix, wanted))]


async def follow_events(cluster: Cluster, wanted: EventFilter, after: int) -> AsyncIterator[list[EventView]]:
    """Every event after a revision, for ever."""
    prefix = cluster.keys.prefix(Kind.EVENT)
    while True:
        try:
            async for batch in cluster.store.watch(prefix, after):
                entries = [event.entry for event in batch.events if event.entry is not None]
                after = max(after, batch.revision)
                if views := [view for one in entries if (view := _chosen(one, prefix, wanted))]:
                    yield views
        except Compacted:
            snapshot = await cluster.store.list(prefix)
            missed = [one for one in snapshot.entries if one.mod_revision > after]
            after = snapshot.revision
            if views := [view for one in missed if (view := _chosen(one, prefix, wanted))]:
                yield views


def _chosen(entry: Entry, prefix: str, wanted: EventFilter) -> EventView | None:
    view = _view(entry, prefix)
    at_ms = view.id.partition("-")[0]
    if at_ms.isdecimal() and int(at_ms) < wanted.since_ms:
        return None
    if wanted.object and not about(view.object or "", wanted.object):
        return None
    return view


def _view(entry: Entry, prefix: str) -> EventView:
    ident = entry.key.removeprefix(prefix)
    try:
        event = decode(Event, entry.value, entry.key)
    except Unreadable as error:
        return EventView(id=ident, broken=True, message=f"unreadable record, ignored: {error.why}")
    return EventView(
        id=ident,
        at=event.at or None,
        by=event.by or None,
        what=event.what,
        object=full_name(event.what, event.object),
        message=event.message or None,
        reason=event.reason or None,
        request_id=event.request_id or None,
    )


def full_name(what: str, object: str) -> str:
    """Kind and name: nodes leave the kind to the event's name."""
    kind = what.partition(".")[0]
    return object if " " in object or object == kind else f"{kind} {object}"


def about(object: str, wanted: str) -> bool:
    """Whether a full name is the one that was typed; without a kind any kind will do."""
    kind, _, name = object.rpartition(" ")
    kind_wanted, _, name_wanted = wanted.strip().rpartition(" ")
    return kind_wanted in ("", kind) and name in (name_wanted, f"{DEFAULT_PROJECT}/{name_wanted}")


def since_ms(text: str, now_ms: int) -> int:
    """``90s``, ``15m``, ``1h``, ``2d`` ago, or a time in RFC 3339; raises Problem."""
    if not text:
        return 0
    if span := _SPAN.fullmatch(text.strip()):
        return max(0, now_ms - int(span[1]) * _UNITS_S[span[2]] * 1000)
    try:
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is None:
            raise ValueError(text)
        return max(0, int(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        raise usage(
            "since", f"{text!r} is not a time", "such as 90s, 15m, 1h, 2d, or 2026-01-31T12:00:00Z"
        ) from None
