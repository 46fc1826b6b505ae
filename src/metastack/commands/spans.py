"""Spans of time as people type and read them.

Owns: ``30m`` in seconds, and seconds in words. Refuses: moments; a span is counted by whoever is given it.
"""

from __future__ import annotations

import re
from typing import Final

from .problem import usage

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SPAN: Final = re.compile(r"([0-9]{1,6})([smhd])")


def span_s(field: str, text: str, least_s: int, most_s: int) -> int:
    """A time such as ``30m`` in seconds; raises Problem."""
    span = _SPAN.fullmatch(text.strip())
    time_s = int(span[1]) * _UNITS_S[span[2]] if span else 0
    if not least_s <= time_s <= most_s:
        most = f"{most_s // 86_400} d" if most_s > 86_400 else f"{most_s // 3_600} h"
        raise usage(field, f"{text!r} is not a time from {least_s} s to {most}", "such as 30m, 2h or 1d")
    return time_s


def span_words(seconds: int) -> str:
    """``1 h 50 min``; below two minutes seconds."""
    if seconds < 120:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)
