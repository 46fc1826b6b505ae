"""Files of backups: nothing but a whole, verified snapshot gets a name."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from metastack.commands.cluster import backup_file
from metastack.commands.cluster.backup_file import Manifest
from metastack.commands.problem import Problem
from metastack.ports import Unavailable

BODY = b"etcd" * 1024
WHOLE = BODY + hashlib.sha256(BODY).digest()
ABOUT = Manifest(
    at="2026-11-29T14:16:27.389Z",
    by="me",
    metastack="1",
    cluster_id="c",
    root="/m",
    etcd="3.5.16",
    revision=7,
    generation=0,
    record_version=2,
    counts={},
)


async def parts(data: bytes, ends: Exception | None = None) -> AsyncIterator[tuple[bytes, int]]:
    for at in range(0, len(data), 1000):
        yield data[at : at + 1000], max(0, len(BODY) - at - 1000)
    if ends is not None:
        raise ends


def quiet(done: int, total: int) -> None:
    assert done <= total


def made(file: Path, data: bytes = WHOLE, ends: Exception | None = None) -> Manifest:
    return asyncio.run(backup_file.write(file, parts(data, ends), ABOUT, quiet))


def test_a_written_backup_verifies(tmp_path: Path) -> None:
    whole = made(tmp_path / "a.db")
    assert (whole.size_bytes, whole.sha256) == (len(WHOLE), hashlib.sha256(WHOLE).hexdigest())
    assert backup_file.verified(tmp_path / "a.db").manifest == whole


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (WHOLE[:-1], "no whole snapshot"),
        (WHOLE[:-512], "damaged"),
        (WHOLE[:-1] + b"?", "damaged"),
        (b"?" + WHOLE[1:], "damaged"),
        (b"", "no whole snapshot"),
        (BODY, "no whole snapshot"),
    ],
    ids=["cut", "a page is missing", "another checksum", "another byte", "empty", "no checksum"],
)
def test_a_snapshot_that_came_damaged_is_no_backup(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(Problem, match=why):
        made(tmp_path / "a.db", data)
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        made(tmp_path / "a.db", WHOLE[:2000], Unavailable("gone"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_short_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(f_bavail=backup_file.RESERVE_BYTES + len(WHOLE) - 1, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda folder: free)
    with pytest.raises(Problem, match=r"free; the backup needs 16\.0MiB") as refused:
        made(tmp_path / "a.db")
    assert "choose another folder" in refused.value.hint
    assert list(tmp_path.iterdir()) == []
    free.f_bavail += 1
    made(tmp_path / "a.db")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_file, "_check_space", lambda folder, size_bytes: None)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", tmp_path], check=True, timeout=10)
    try:
        with pytest.raises(Problem, match="No space left"):
            made(tmp_path / "a.db")
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True, timeout=10)


def test_a_manifest_of_another_file_is_noticed(tmp_path: Path) -> None:
    made(tmp_path / "a.db")
    other = b"else" * 1024
    (tmp_path / "a.db").write_bytes(other + hashlib.sha256(other).digest())
    with pytest.raises(Problem, match=r"not the backup that a\.db\.json describes"):
        backup_file.verified(tmp_path / "a.db")
    (tmp_path / "a.db.json").unlink()
    assert backup_file.verified(tmp_path / "a.db").manifest is None


def test_one_backup_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    with (
        backup_file.sole_writer(tmp_path),
        pytest.raises(Problem, match="another backup"),
        backup_file.sole_writer(tmp_path),
    ):
        pass


def test_names_sort_by_time() -> None:
    assert backup_file.name_of(ABOUT.at, 7) == "metastack-20261129T141627Z-r7.db"
    assert backup_file.OURS.fullmatch(backup_file.name_of(ABOUT.at, 7))
