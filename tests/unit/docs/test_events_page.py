"""docs/reference/events.md lists every log event of the product: its name, levels and fields."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from metastack.agent.reconcile import claimer

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reference" / "events.md"
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
CLAIM = {"vm", "node", "session", "epoch"}
"""Fields that ``claimer.log_owned`` adds."""
PHASES = ("starting", "waiting", "running", "paused", "stopping", "stopped", "failed")
"""Phases that an agent publishes: each change of phase is logged under the phase's name."""


class Event(NamedTuple):
    name: str
    level: str
    fields: frozenset[str]


def texts(node: ast.expr) -> list[str]:
    """The strings that an expression may be."""
    if isinstance(node, ast.IfExp):
        return texts(node.body) + texts(node.orelse)
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def levels(node: ast.expr) -> list[str]:
    """The levels of ``log.LEVEL`` or of ``log.LEVEL if … else log.LEVEL``."""
    if isinstance(node, ast.IfExp):
        return levels(node.body) + levels(node.orelse)
    known = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "log"
    return [LEVELS[node.attr]] if known and isinstance(node, ast.Attribute) and node.attr in LEVELS else []


def events_of(path: Path) -> Iterator[Event]:
    for call in ast.walk(ast.parse(path.read_text())):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        fields = frozenset(word.arg for word in call.keywords if word.arg)
        for level in levels(call.func):
            for name in texts(call.args[0]):
                yield Event(name, level, fields)
            if ast.unparse(call.args[0]) == "status.phase.value":
                yield from (Event(phase, level, fields) for phase in PHASES)
        if isinstance(call.func, ast.Name) and call.func.id == "say" and path.parent.name == "etcd":
            yield Event(*texts(call.args[1]), *texts(call.args[0]), fields)
        if isinstance(call.func, ast.Name) and call.func.id == "log_owned":
            yield from (Event(name, "info", fields | CLAIM) for name in texts(call.args[1]))


def logged() -> dict[str, tuple[list[str], list[str]]]:
    """Levels and fields of each event, as the source has them."""
    found: list[Event] = []
    source = ROOT / "src" / "metastack"
    for path in sorted(source.rglob("*.py")):
        if path.relative_to(source).parts[0] != "lab":
            found += events_of(path)
    found += [Event("library", "any", frozenset({"logger", "message", "exception"}))]  # telemetry/logs.py
    return {
        event.name: (
            sorted({other.level for other in found if other.name == event.name}),
            sorted({field for other in found if other.name == event.name for field in other.fields}),
        )
        for event in found
    }


def listed() -> dict[str, tuple[list[str], list[str]]]:
    rows = re.findall(r"(?m)^\| `(\w+)` \| ([\w, ]+) \| (.*?) \| \S.* \|$", PAGE.read_text())
    assert len(rows) == len({name for name, _, _ in rows}), "an event is listed twice"
    return {name: (sorted(level.split(", ")), sorted(re.findall(r"`(\w+)`", f))) for name, level, f in rows}


def test_the_page_lists_what_the_source_logs() -> None:
    source, page = logged(), listed()
    assert page.keys() == source.keys(), page.keys() ^ source.keys()
    assert {name: page[name] for name in page} == source


def test_claims_are_logged_with_the_fields_of_the_page() -> None:
    source = Path(claimer.__file__).read_text()
    assert all(f"{field}=" in source[source.index("def log_owned") :] for field in CLAIM)
