"""Sizes as people write them: ``512MiB``, ``2GiB``, ``10GB``.

Owns: the units and their factors. Refuses: a bare number, and ``2G``, which means two things.
Rule: a size is a whole number of bytes or an error that shows how to write it.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

UNITS: Final[dict[str, int]] = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
"""Bytes of each unit."""

MAX_BYTES: Final = 1 << 50
"""1 PiB: anything above it is a slip of the finger."""

_SIZE: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)", re.ASCII)
_BY_LOWER: Final = {unit.lower(): unit for unit in UNITS}


class InvalidSize(ValueError):
    """Not a size; the message says how to write one."""


def parse_bytes(text: str) -> int:
    """``2GiB`` as bytes; raises :class:`InvalidSize`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidSize(f"{text!r} is not a size: write a number and a unit, such as 2GiB")
    number, unit = match[1], match[2]
    if not unit:
        raise InvalidSize(f"{text!r} has no unit: write {number}MiB or {number}GiB")
    known = _BY_LOWER.get(unit.lower())
    if known is None:
        near = [name for name in ("KiB", "MiB", "GiB", "TiB") if name[0].lower() == unit[0].lower()]
        advice = f"write {number}{near[0]}" if near else f"units are {', '.join(UNITS)}"
        raise InvalidSize(f"{text!r} has the unknown unit {unit!r}: {advice}")
    value = Decimal(number) * UNITS[known]
    if value != value.to_integral_value():
        raise InvalidSize(f"{text!r} is not a whole number of bytes")
    if value > MAX_BYTES:
        raise InvalidSize(f"{text!r} is more than 1 PiB")
    return int(value)


def parse_mib(text: str) -> int:
    """``2GiB`` as MiB; raises :class:`InvalidSize` when it is not a whole number of them."""
    value = parse_bytes(text)
    mib, rest = divmod(value, UNITS["MiB"])
    if rest:
        raise InvalidSize(f"{text!r} is not a whole number of MiB (1,048,576 bytes): write {max(1, mib)}MiB")
    return mib


def format_bytes(value: int) -> str:
    """The shortest exact or nearly exact binary form: ``4GiB``, ``36MiB``, ``1.5GiB``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        factor = UNITS[unit]
        if value >= factor:
            number = value / factor
            return f"{number:.0f}{unit}" if number == int(number) else f"{number:.1f}{unit}"
    return f"{value}B"
