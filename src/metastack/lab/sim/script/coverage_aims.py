"""Aims: for every step of the protocol a road that leads to it, and a fault that waits there.

Owns: which steps there are, what makes an agent take each of them, and the short script of a cell of coverage.
Refuses: judging and counting. Rule: a cell's script depends on the cell and the try alone, so that a sweep over
all cells is the same everywhere; random schedules take the same roads at their seeds' choice.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Final

from .catalogue import FAULTS
from .script import Script, Step, parse

_BACK: Final = ("0 crash {node} for 0.5",)
_GONE: Final = ("0 power-cut {node} for 20",)
_NEW: Final = ("0 recreate {vm}", "0 want {vm}")

ROADS: Final[dict[str, tuple[str, ...]]] = {
    # transactions
    "register": _BACK,
    "declare": ("0 power-cut {node} for 2", "1 new-address {node} 10.0.{number}.1"),
    "ready": _BACK,
    "relet": ("0 set lease_ttl_s=8",),
    "claim": _NEW,
    "takeover": _GONE,
    "adopt": ("0 revoke {node}",),
    "publish": _NEW,
    "halt": ("0 guest-off {vm}",),
    "release": ("0 off {vm}",),
    "forget_halt": ("0 guest-off {vm}", "4 on {vm}"),
    "forget_volume": ("0 delete {vm}",),
    "intent": _GONE,
    "pass_intent": ("0 fence-refused for 14", *_GONE),
    "take_over_intent": (*_GONE, "0 on fence crash @ for 18"),
    "done": _GONE,
    # calls
    "grant": _BACK,
    "renew": (),
    "revoke": _BACK,
    "quiesce": ("0 calls-take {node} start=18 for 20", "0.5 force-restart {vm}", "11.5 cut-etcd {node} for 4"),
    "barrier": _BACK,
    "domains": _BACK,
    "blocked": _BACK,
    "fence": _GONE,
    "unfence": ("0 power-cut {node} for 9",),
    "break_locks": _GONE,
    "create_disk": _NEW,
    "delete_disk": ("0 delete {vm}",),
    "boot": ("0 force-restart {vm}",),
    "kill": ("0 force-off {vm}",),
    "shutdown": ("0 off {vm}",),
    "pause": ("0 pause {vm}",),
    "resume": ("0 pause {vm}", "3 resume {vm}"),
    "retag": ("0 revoke {node}",),
}
"""Step to what is done, seconds after the start of the road, so that some agent takes it."""
STEPS: Final = tuple(ROADS)
"""Steps of the protocol in whose middle a fault may strike: every transaction of an agent, and its calls."""

_OF_THE_NODE: Final = ("ready", "domains", "blocked", "barrier")
"""Steps that other nodes take too: only the road's node counts."""
START_S: Final = 6.0
REQUEST_VERB: Final = "restart"
"""The request that stands for all of them."""
TRIES: Final = 6
"""A request is on its way for a millisecond; a fault that comes too late tries again with other latencies."""


def road(step: str, at_s: float, node: str, vm: str) -> list[Step]:
    """What leads to a step, beginning at that second."""
    lines = []
    for line in ROADS[step]:
        after_s, _, rest = line.format(node=node, vm=vm, number=node[1:]).partition(" ")
        lines.append(f"at {at_s + float(after_s):g} {rest}")
    return list(parse("\n".join(lines)).steps)


def fault(kind: str, step: str, at_s: float, for_s: float, vm: str) -> Step:
    """A fault that strikes in the next such step; its victim is the node that is in it."""
    found = FAULTS[kind]
    args = {"node": ("@",), "vm": (vm,), "cluster": ()}[found.scope]
    more = {"late-commit": ("6",), "clock-jump": ("3600",)}.get(kind, ())
    return Step(at_s, kind, (*args, *more), for_s if found.lasts else None, step)


def aimed(
    random: Random, kinds: tuple[str, ...], names: list[str], guests: list[str], at_s: float
) -> list[Step]:
    """At a seed's choice: some step's road, and some fault that waits there."""
    step, kind = random.choice(STEPS), random.choice(kinds)
    for_s = round(random.uniform(0.5, 15.0), 3)
    leads = road(step, at_s, random.choice(names), random.choice(guests))
    return [*leads, fault(kind, step, at_s, for_s, random.choice(guests))]


def cell(kind: str, step: str, number: int) -> Script:
    """The script of one cell, in one of its tries."""
    base = parse(
        f"seed {number}\nnodes 3\nuntil 30\nconfig lease_ttl_s=3\n"
        + "".join(f"at 0 want vm{n} node=n{n}\nat 4 pin vm{n} -\n" for n in range(1, 4))
    )
    other = f"vm{2 + number % 2}"
    strikes = (
        Step(START_S, REQUEST_VERB, (other,))
        if kind == "wish"
        else fault(kind, "", START_S, 6.0 + number, other)
    )
    strikes = replace(strikes, on=f"{step}/n1" if step in _OF_THE_NODE else step)
    # The road begins a moment after the fault began to wait for it.
    return base.with_steps([*base.steps, strikes, *road(step, START_S + 0.01, "n1", "vm1")])
