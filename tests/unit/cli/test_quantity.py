"""Sizes: units are required."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastack.core.quantity import InvalidSize, format_bytes, parse_bytes, parse_mib


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2GiB", 2 << 30),
        ("512mib", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("10GB", 10**10),
        ("7 B", 7),
        ("1KiB", 1024),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2", "no unit: write 2MiB or 2GiB"),
        ("2G", "write 2GiB"),
        ("2X", "units are"),
        ("", "not a size"),
        ("-2GiB", "not a size"),
        ("1e3GiB", "not a size"),
        ("0.3B", "whole number"),
        ("٢GiB", "not a size"),
        ("99999999TiB", "1 PiB"),
        ("2GiB\n3", "not a size"),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidSize, match=says):
        parse_bytes(text)


def test_memory_is_whole_mib() -> None:
    assert parse_mib("1GiB") == 1024
    with pytest.raises(InvalidSize, match="MiB"):
        parse_mib("1GB")


@given(st.integers(0, 2047))
def test_format_is_exact_for_half_mib(halves: int) -> None:
    assert parse_bytes(format_bytes(halves << 19)) == halves << 19


@given(st.text())
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        assert parse_bytes(text) >= 0
    except InvalidSize:
        pass
