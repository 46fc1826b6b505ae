"""A run's log as an operator reads it: what was broken, what people requested, what each agent logged.

Owns: which lines of a trace a person needs, and how they are written. Refuses: revisions, lease numbers and
milliseconds: two runs of one source say the same, and a change that only moves a revision changes no log.
Rule: sessions are counted by node (``n1.2`` is the second one of n1), epochs by VM; a line that an agent
repeats at once is shown once, and what it only tries again not at all; the start, where nodes come up in any
order, is told node by node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_DROPPED: Final = re.compile(
    r" (?:uuid|osd_epoch|through|left_s|retry_in_s|key|seen|now)=(?:'[^']*'|\"[^\"]*\"|\([^)]*\)|\S+)"
)
_HIDDEN: Final = (
    "unavailable",
    "lease_renewal_failed",
    "hypervisor_reconnected",
    "domain_list_failed",
    "resync_failed",
)
_NUMBER: Final = re.compile(r"\b(session|epoch)=([1-9]\d*)")
_VM: Final = re.compile(r"\bvm=default/(\S+)")
_REVISION: Final = re.compile(r"\b(lease|revision|revisions|epoch) [0-9a-f]+")


_KINDS: Final = re.compile(r"\band \d+ more:")
"""How many kinds of records are listed beside the first."""


def readable(lines: Iterable[str]) -> str:
    """The lines of :class:`metastack.lab.sim.engine.trace.Trace` without what only a machine reads."""
    counted: dict[str, list[str]] = {}
    last: dict[str, str] = {}
    shown: list[tuple[str, str, str]] = []
    for line in lines:
        at, who, what = line[:9], line[10:16].strip(), line[17:]
        if who == "etcd" or what.startswith(("first write of epoch", *_HIDDEN)):
            continue
        vm = _VM.search(what)
        of = {"session": who, "epoch": vm.group(1) if vm else ""}

        def name(found: re.Match[str], of: dict[str, str] = of) -> str:
            owner, number = of[found.group(1)], found.group(2)
            known = counted.setdefault(f"{found.group(1)} of {owner}", [])
            if number not in known:
                known.append(number)
            return f"{found.group(1)}={owner}.{known.index(number) + 1}"

        text = _REVISION.sub(r"\1 …", _NUMBER.sub(name, _DROPPED.sub("", what)))
        text = _KINDS.sub("and … more:", text)
        if last.get(who) == text and who not in ("**", "--"):
            continue
        last[who] = text
        shown.append((f"{float(at):6.0f}", who, text))
    begun = next((n for n, (_, who, _) in enumerate(shown) if who == "**"), len(shown))
    shown[:begun] = sorted(shown[:begun], key=lambda line: line[:2])
    return "".join(f"{at} {who:<3} {text}\n" for at, who, text in shown)
