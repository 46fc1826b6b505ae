"""A request that a hand wrote badly is unreadable: it ends no agent."""

from __future__ import annotations

import pytest

from metastack.core.model import BreakLock
from metastack.core.protocol.broken_locks import answered_at
from metastack.core.state.keys import Keys
from metastack.core.state.validation import flaw

KEY = "/metastack/requests/break-lock/default/a"


def request(**changed: object) -> BreakLock:
    sound = {"uuid": "u-1", "claim": 7, "client": "10.0.0.9:0/1", "at_ms": 1, "request_id": "abc"}
    return BreakLock(**{**sound, **changed})  # type: ignore[arg-type]


def test_a_sound_one_has_a_key_for_its_answer() -> None:
    assert flaw(request(), KEY) == ""
    assert answered_at(Keys(), request()).endswith("-abc-answer")


@pytest.mark.parametrize(
    "changed", [{"request_id": "a/b"}, {"at_ms": -1}, {"at_ms": 1 << 60}, {"uuid": "../x"}]
)
def test_one_that_would_break_a_key_is_refused(changed: dict[str, object]) -> None:
    assert flaw(request(**changed), KEY)
