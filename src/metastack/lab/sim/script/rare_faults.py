"""Rarer trouble, for a third of the schedules: people in the middle of a fence, hung libvirtds, late requests.

Owns: these steps. Refuses: faults that a seed has anyway (:mod:`.schedule`), and what no judge could tell from
a bug (records that nobody can read). An etcd that is restored is played by seeds of a range of their own.
Rule: drawn from a source of their own, so that the rest of a seed's schedule is what it would be without them.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from .coverage_aims import STEPS
from .script import Step

DOWN: Final = ("power-cut", "cut", "cut-etcd", "freeze", "crash")
SLOW_CALLS: Final = ("start", "kill", "define", "shutdown", "boot", "domain")
REQUESTS: Final = (
    *("claim", "takeover", "release", "recall", "adopt", "publish", "register"),
    *("intent", "withdraw_intent", "take_over_intent", "pass_intent", "done"),
)
RECORDS: Final = ("claims", "desired", "fences", "actual", "nodes")


RESTORES: Final = range(90_000_000, 100_000_000)
"""Seeds with an etcd that is restored from an older backup, under a new token, and let be used by a person."""


def restored(seed: int, steps: list[Step], until_s: float) -> list[Step]:
    """The same steps and a restore among them; for seeds of other ranges just the same.

    Nobody fences by hand: after a restore a person vouches for more than that
    (docs/guide/backup.md, step 5).
    """
    if seed not in RESTORES:
        return steps
    random = Random(f"{seed}/restored")
    backup_s = round(random.uniform(3.0, until_s / 2), 3)
    later_s = random.choice((random.uniform(0.5, 5.0), random.uniform(5.0, 30.0), random.uniform(1.0, 45.0)))
    at_s = round(backup_s + later_s, 3)
    said_s = round(at_s + random.choice((0.0, random.uniform(0.1, 3.0), random.uniform(3.0, 12.0))), 3)
    more = [Step(at_s, "etcd-restored", (f"{backup_s}",)), Step(said_s, "cluster-restore")]
    if random.random() < 0.3:
        more.append(Step(round(said_s + random.uniform(0.5, 12.0), 3), "cluster-restore"))
    return [*(step for step in steps if step.verb != "fence-by-hand"), *more]


def rare_steps(seed: int, names: list[str], until_s: float) -> list[Step]:
    """Steps for a seed; for most of them there are none."""
    random = Random(f"{seed}/rarer")
    if random.random() > 1 / 3:
        return []

    def at(low_s: float = 8.0) -> float:
        return round(random.uniform(low_s, until_s - 10.0), 3)

    kind: Callable[[Random, list[str], Callable[[], float]], list[Step]]
    kind = random.choice((_by_hand, _brake, _hung, _late))
    steps = kind(random, names, at)
    if kind is _brake:
        steps.append(Step(until_s - 1.0, "set", ("brake_percent=50", "brake_window_s=60")))
    return steps


def _by_hand(random: Random, names: list[str], at: Callable[[], float]) -> list[Step]:
    """People say that a node is gone: it is, or it is back, or being fenced already."""
    node, start_s = random.choice(names), at()
    steps = [Step(start_s, random.choice(DOWN), (node,), round(random.uniform(3.0, 30.0), 3))]
    for _ in range(random.randint(1, 3)):
        steps.append(Step(round(start_s + random.uniform(0.1, 25.0), 3), "fence-by-hand", (node,)))
    return steps


def _brake(random: Random, names: list[str], at: Callable[[], float]) -> list[Step]:
    """The brake is set tighter or wider while nodes go, and fences are on their way."""
    steps = _by_hand(random, names, at)
    for _ in range(random.randint(1, 4)):
        field = random.choice((f"brake_percent={random.choice((0, 30, 60, 100))}", "brake_window_s=5"))
        steps.append(Step(at(), "set", (field,), None, random.choice(("", "", "intent", "fence"))))
    if random.random() < 0.5:
        lag_s = f"{random.uniform(0.5, 12.0):.3f}"
        steps.append(Step(at(), "request-takes", (random.choice(names), random.choice(REQUESTS[-5:]), lag_s)))
    return steps


def _hung(random: Random, names: list[str], at: Callable[[], float]) -> list[Step]:
    """libvirtd hangs past its keepalive, and carries out later what was sent to it."""
    steps = []
    for _ in range(random.randint(1, 3)):
        slow = random.sample(SLOW_CALLS, 2)
        calls = [f"{call}={random.choice((1, 3, 6, 12, 20))}" for call in slow]
        lasts_s = round(random.uniform(3.0, 25.0), 3)
        steps.append(Step(at(), "calls-take", (random.choice(names), *calls), lasts_s))
        on = random.choice((*STEPS, "boot", "kill", "barrier"))
        steps.append(Step(at(), "connection-ends", ("@",), None, on))
    return steps


def _late(random: Random, names: list[str], at: Callable[[], float]) -> list[Step]:
    """One kind of transaction, answer or event is late, or never comes."""
    steps = []
    for _ in range(random.randint(1, 4)):
        node, lag_s = random.choice(names), f"{random.uniform(0.5, 18.0):.3f}"
        steps.append(Step(at(), "request-takes", (node, random.choice(REQUESTS), lag_s)))
        steps.append(Step(at(), "answer-takes", (random.choice(names), random.choice(RECORDS), lag_s)))
    lasts_s = round(random.uniform(1.0, 25.0), 3)
    return [*steps, Step(at(), "unheard", (random.choice(names), random.choice(RECORDS)), lasts_s)]
