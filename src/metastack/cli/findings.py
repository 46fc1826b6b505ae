"""Findings for people: one line of what is wrong, one of what to type.

Owns: how findings are printed. Refuses: judging, and exit statuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .frame import Frame
from .session import note

if TYPE_CHECKING:
    from metastack.commands.doctor.facts import Finding, Severity


def count(found: Sequence[Finding]) -> Counter[Severity]:
    """How many there are of each severity."""
    return Counter(finding.severity for finding in found)


def tell(frame: Frame, found: Sequence[Finding]) -> None:
    """The same finding about several objects once; their number at the end."""
    from metastack.commands.doctor import grouped
    from metastack.commands.doctor.facts import Severity

    from .output import text_of

    for objects, finding in grouped(found):
        print(f"{finding.severity.value}: {text_of(objects)}: {text_of(finding.meaning)}")
        if finding.command:
            print(f"    {text_of(finding.command)}")
    counts = count(found)
    note(frame, ", ".join(f"{counts[level]} {level.value}" for level in Severity))
