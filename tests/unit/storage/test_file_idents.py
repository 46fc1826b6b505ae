"""A file's time of birth is told by some kernels alone, and an operation on files may have died halfway."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metastack.ports import Exists, Mark, NotOurs
from metastack.ports.ownership import parsed, refuse_to_remove, refuse_to_use, same_object, written
from metastack.storage.files import images as file_images
from metastack.storage.files import marks as file_marks
from metastack.storage.files import trash as file_trash
from metastack.storage.files.images import Folder

UUID = "11111111-0000-4000-8000-000000000000"
MARK = Mark(cluster="c", kind="disk", record=UUID)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(str(tmp_path), 5)
    made.prepare()
    made.disk(UUID).write_bytes(b"x")
    made.marks.write(UUID, MARK, made.disk(UUID))
    return made


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("7-100", "7-100", True),
        ("7-100", "7-0", True),
        ("7-0", "7-100", True),
        ("7-100", "7-200", False),
        ("7-0", "8-0", False),
        ("7-0", "8-100", False),
        ("10ab", "10ab", True),
        ("10ab", "10ac", False),
        ("", "7-0", False),
    ],
)
def test_without_a_birth_time_the_inode_counts_alone(one: str, other: str, same: bool) -> None:
    assert same_object(one, other) is same
    found = parsed(written(MARK, one))
    if same:
        refuse_to_remove("vm", found, other, MARK, unmarked=False)
        assert not refuse_to_use("vm", found, other, MARK)
    elif one:
        with pytest.raises(NotOurs, match="a copy"):
            refuse_to_remove("vm", found, other, MARK, unmarked=False)


@pytest.mark.parametrize("first_tells", [True, False])
def test_trash_and_restore_work_across_differing_hosts(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, first_tells: bool
) -> None:
    def host(tells: bool) -> None:
        monkeypatch.setattr(file_marks, "_born_ns", lambda _path: 100 if tells else 0)

    host(first_tells)
    folder.marks.write(UUID, MARK, folder.disk(UUID))
    before = file_marks.ident(folder.disk(UUID))
    host(not first_tells)
    file_images.delete_disk(folder, UUID, 0, MARK, False)
    assert file_trash.restore(folder, UUID, before, MARK)
    file_images.delete_disk(folder, UUID, 0, MARK, False)
    assert file_trash.purge(folder, UUID, before, MARK, early=True)
    assert file_trash.trash(folder) == []


def half_restored(folder: Folder, retention_s: int = 0) -> tuple[Path, str]:
    """As a restore leaves it that died between its two steps."""
    its = file_marks.ident(folder.disk(UUID))
    file_images.delete_disk(folder, UUID, retention_s, MARK, False)
    (lies,) = folder.trash.glob("*.qcow2")
    os.link(lies, folder.disk(UUID))
    return lies, its


def test_a_restore_that_died_halfway_is_finished(folder: Folder) -> None:
    lies, its = half_restored(folder)
    assert file_trash.restore(folder, UUID, its, MARK)
    assert folder.disk(UUID).read_bytes() == b"x" and not lies.exists()
    assert not file_trash.restore(folder, UUID, its, MARK)


def test_another_disk_of_that_name_is_still_in_the_way(folder: Folder) -> None:
    lies, its = half_restored(folder)
    folder.disk(UUID).unlink()
    folder.disk(UUID).write_bytes(b"somebody's")
    with pytest.raises(Exists, match="move it away"):
        file_trash.restore(folder, UUID, its, MARK)
    assert lies.exists() and folder.disk(UUID).read_bytes() == b"somebody's"


@pytest.mark.parametrize("retention_s", [0, 3600])
def test_trashing_after_half_a_restore_leaves_one_name(folder: Folder, retention_s: int) -> None:
    _, its = half_restored(folder, 3600)
    file_images.delete_disk(folder, UUID, retention_s, MARK, False)
    assert not folder.disk(UUID).exists()
    assert len(file_trash.trash(folder)) == 1
    assert file_trash.purge(folder, UUID, its, MARK, early=True)
    assert file_trash.trash(folder) == []
