"""The keyring's file: what is read, what is refused, which key is the newest."""

from __future__ import annotations

import base64
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastack.secrets.keyring import (
    KEY_BYTES,
    MAX_KEYS,
    ClusterKey,
    Keyring,
    KeyringError,
    changing,
    new_key,
    parse,
    read,
    save,
)

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def ring(count: int = 1) -> Keyring:
    found: tuple[ClusterKey, ...] = ()
    for _ in range(count):
        found = (*found, new_key(NOW, Keyring(found) if found else None))
    return Keyring(found)


def line(key: ClusterKey) -> str:
    return f"{key.id} {key.created} {base64.b64encode(key.key).decode()}"


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    path, three = tmp_path / "secrets.key", ring(3)
    assert save(path, reversed(three.keys)) == three == read(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_key_is_newest_when_the_clock_goes_back() -> None:
    old = ring()
    key = new_key(NOW - timedelta(days=9), old)
    assert Keyring(tuple(sorted((key, *old.keys)))).newest == key


def test_two_new_keys_differ() -> None:
    assert new_key(NOW).id != new_key(NOW).id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secrets.key"
    save(path, ring().keys)
    path.chmod(mode)
    with pytest.raises(KeyringError, match=f"mode {mode:04o}"):
        read(path)


def test_a_file_that_is_not_there_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(KeyringError) as caught:
        read(tmp_path / "none")
    assert caught.value.missing and "key create" in caught.value.hint


def damaged(text: str) -> list[str]:
    ident, created, key = text.split()
    other = base64.b64encode(os.urandom(KEY_BYTES)).decode()
    return [
        "",
        "# nothing but a comment",
        f"{ident} {created}",
        f"{ident} {created} {key} more",
        f"{ident} {created} {other}",
        f"{'0' * 16} {created} {key}",
        f"{ident} {created} {key[:-4]}",
        f"{ident} {created} {key[:20]}",
        f"{ident} yesterday {key}",
        f"{ident} 2030-13-01T00:00:00Z {key}",
        "\n".join(line(key) for key in ring(MAX_KEYS + 1).keys),
        "\x00" * 100,
    ]


@pytest.mark.parametrize("case", range(12))
def test_a_damaged_file_is_refused_without_its_content(case: int) -> None:
    good = line(ring().newest)
    text = damaged(good)[case]
    with pytest.raises(KeyringError) as caught:
        parse(text, "the file")
    said = f"{caught.value} {caught.value.hint}"
    assert "the file" in said and good.split()[2][:12] not in said


@given(st.text())
def test_any_text_is_a_keyring_or_refused(text: str) -> None:
    try:
        assert parse(text, "x").keys
    except KeyringError:
        pass


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "secrets.key"
    path.touch(mode=0o600)
    os.truncate(path, 1 << 40)
    with pytest.raises(KeyringError, match="too large"):
        read(path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KeyringError, match="cannot be written"), changing(tmp_path / "file" / "secrets.key"):
        pass


def test_a_key_is_in_no_text_of_its_keyring() -> None:
    two = ring(2)
    for key in two.keys:
        for form in (repr(key.key), key.key.hex(), base64.b64encode(key.key).decode()):
            assert form not in f"{two!r} {key!r} {key}"
