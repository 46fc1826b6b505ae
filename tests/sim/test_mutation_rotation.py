"""A part of the mutation check in every run of the suite: which part, the date decides; all in ten days."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

from metastack.sim.mutations import MUTATIONS, Verdict, judge, remembered

TESTS = Path(__file__).parents[1]
PARTS = 10
BUDGET_S = 60.0


def test_todays_part_is_noticed() -> None:
    day = datetime.datetime.now(tz=datetime.UTC).date().toordinal()
    known = remembered(TESTS)
    part = [
        m
        for n, m in enumerate(MUTATIONS)
        # One whose catcher nobody knows yet would need the whole list's time: `metastack sim mutations` has it.
        if n % PARTS == day % PARTS and not m.harmless and m.name in known
    ]
    assert len(part) >= 3
    begun, verdicts = time.monotonic(), list[Verdict]()
    for mutation in part:
        if verdicts and time.monotonic() - begun > BUDGET_S / 2:
            break  # a slow machine does less of it; at least one is always done
        verdicts.append(judge(mutation, TESTS, 40, BUDGET_S / 2))
    assert all(verdict.ok for verdict in verdicts), [verdict for verdict in verdicts if not verdict.ok]
