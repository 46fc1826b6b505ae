"""A run's log as an operator reads it: what was broken, what people wished, what each agent said.

Owns: which lines of a trace a person needs, and how they are written. Refuses: revisions, lease numbers and
milliseconds: two runs of one source say the same, and a change that only moves a revision changes no log.
Rule: numbers that identify (sessions, epochs, fences) get names in the order of their appearance; a line that
an agent repeats at once is said once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

# A fence reaches up to its own revision, which is nobody's session.
_LETTER: Final = {"session": "S", "epoch": "E", "through": "F"}
_DROPPED: Final = re.compile(r" (?:uuid|osd_epoch|left_s|retry_in_s|key)=(?:'[^']*'|\"[^\"]*\"|\([^)]*\)|\S+)")
_NUMBER: Final = re.compile(r"\b(session|epoch|through)=(\d+)")
_LEASE: Final = re.compile(r"\b(lease|revision|revisions) [0-9a-f]+")


def readable(lines: Iterable[str]) -> str:
    """The lines of :class:`metastack.sim.trace.Trace` without what only a machine reads."""
    names: dict[tuple[str, str], str] = {}
    last: dict[str, str] = {}
    shown: list[str] = []

    def name(found: re.Match[str]) -> str:
        what, number = found.group(1), found.group(2)
        kind = _LETTER[what]
        if number == "0":
            return f"{what}=0"
        called = names.setdefault((kind, number), f"{kind}{sum(1 for k, _ in names if k == kind) + 1}")
        return f"{what}={called}"

    for line in lines:
        at, who, what = line[:9], line[10:16].strip(), line[17:]
        if who == "etcd" or what.startswith("first write of epoch"):
            continue
        text = _LEASE.sub(r"\1 …", _NUMBER.sub(name, _DROPPED.sub("", what)))
        if last.get(who) == text and who not in ("**", "--"):
            continue
        last[who] = text
        shown.append(f"{float(at):6.0f} {who:<3} {text}")
    return "\n".join(shown) + "\n"
