"""A scenario: a folder of ``README``, ``script`` and ``log.expect``; its log is the assertion.

Owns: playing the script and comparing what was logged. Refuses: wall time, and anything that two runs of one
source could say differently. Rule: ``--update`` writes the log; a person reads the difference before it is
kept.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import msgspec

from ..engine.readable import readable
from ..script.script import parse
from .play import Report, play


class Outcome(msgspec.Struct, kw_only=True):
    """What came of a scenario."""

    name: str
    violations: list[str]
    difference: list[str]
    """Lines of a unified diff; empty when the log is as expected."""
    report: Report


def log_of(report: Report) -> str:
    """The trace as an operator reads it."""
    return readable(report.lines)


def scenario(folder: Path, update: bool = False) -> Outcome:
    """Play ``folder/script`` and compare its log with ``folder/log.expect``; raises OSError, ScriptError."""
    report = play(parse((folder / "script").read_text()), keep=True)
    log, expected = log_of(report), folder / "log.expect"
    if update and not report.violations:
        expected.write_text(log)
    old = expected.read_text() if expected.exists() else ""
    difference = list(
        difflib.unified_diff(old.splitlines(), log.splitlines(), str(expected), "this run", lineterm="", n=2)
    )
    return Outcome(name=folder.name, violations=report.violations, difference=difference, report=report)
