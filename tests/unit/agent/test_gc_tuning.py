"""The collector's pace: rarer than Python's, and never off."""

from __future__ import annotations

import gc
import weakref

from metastack.agent.upkeep import gc_tuning as garbage


class _Circle:
    def __init__(self) -> None:
        self.me = self


def test_garbage_after_the_freeze_is_still_found() -> None:
    before = gc.get_threshold()
    try:
        garbage.collect_rarely()
        assert gc.isenabled() and gc.get_threshold() == garbage.PACE
        garbage.freeze_startup_objects()
        assert gc.get_freeze_count() > 1000
        gone = weakref.ref(_Circle())
        kept = [[] for _ in range(garbage.PACE[0] + 1)]
        assert gone() is None and kept
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
