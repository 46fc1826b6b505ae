"""Full disks and pools, wrong keys, monitors that do not answer: what each says, and how fast."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from storage_rig import MIB, new_uuid, qcow2_image, raw_image, run

from metastack.lab.dev.ceph import MiniCeph
from metastack.ports import Denied, NoSpace, Refused, Unavailable
from metastack.settings import StorageSettings
from metastack.storage.choose import build


@pytest.mark.ceph
async def test_a_wrong_key_is_denied_at_once(ceph: MiniCeph, tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    keyring.write_text("[client.cli]\n\tkey = AQCgDwNrBnNIDBAASiir6V7kf4wmPmSUufRkTg==\n")
    wrong = msgspec.structs.replace(ceph.settings("cli"), keyring=str(keyring))
    begun = time.monotonic()
    with pytest.raises(Denied, match=r"client\.cli"):
        await build(wrong).open()
    assert time.monotonic() - begun < 5
    for text in ("", "[client.other]\nkey = AAAA\n", "[client.cli]\nkey = no base64!\n"):
        keyring.write_text(text)
        with pytest.raises(Denied, match="no valid key"):
            await build(wrong).open()
    with pytest.raises(Denied, match="cannot be read"):
        await build(msgspec.structs.replace(wrong, keyring=str(tmp_path / "absent"))).open()


@pytest.mark.ceph
async def test_a_silent_monitor_is_unavailable_within_the_timeout(ceph: MiniCeph) -> None:
    away = msgspec.structs.replace(ceph.settings("cli", timeout_s=2), monitors=(f"{ceph.address}:6788",))
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="6788"):
        await build(away).open()
    assert time.monotonic() - begun < 15


@pytest.mark.ceph
async def test_an_unknown_pool_says_so(ceph: MiniCeph) -> None:
    with pytest.raises(Unavailable, match="no pool 'elsewhere'"):
        await build(ceph.settings("cli", pool="elsewhere")).open()


@pytest.mark.ceph
async def test_a_full_pool_is_no_space_and_can_still_delete(ceph: MiniCeph, tmp_path: Path) -> None:
    # A pool without a trash: nothing was ever deleted in it.
    await ceph.create_pool("fresh")
    await ceph.create_management_user("fresh", "fresh")
    storage = build(ceph.settings("fresh", "fresh", timeout_s=3))
    await storage.open()
    raw_image(tmp_path / "a.raw")
    image, disk, late = new_uuid(), new_uuid(), new_uuid()
    await storage.import_image(image, str(tmp_path / "a.raw"), None)
    await storage.create_disk(disk, image, 8 * MIB)
    # In this order: Ceph ignores a ratio that is below the one before it.
    for kind in ("nearfull", "backfillfull", "full"):
        await ceph.ceph("osd", f"set-{kind}-ratio", "0.0001")
    try:
        deadline = time.monotonic() + 60
        flags: list[str] = []
        while "full" not in flags:  # "nearfull" and "backfillfull" come before it
            assert time.monotonic() < deadline, flags
            pools = json.loads(await ceph.ceph("osd", "pool", "ls", "detail", "-f", "json"))
            flags = next(p["flags_names"] for p in pools if p["pool_name"] == "fresh").split(",")
        with pytest.raises(NoSpace, match="full"):
            await storage.import_image(late, str(tmp_path / "a.raw"), None)
        assert late not in await storage.images()
        await storage.delete_disk(disk, 0)
        (trashed,) = await storage.trash()
        assert await storage.purge_disk(disk, trashed.ident)
        await storage.delete_image(image)
        assert image not in await storage.images()
    finally:
        for kind, ratio in (("full", "0.95"), ("backfillfull", "0.9"), ("nearfull", "0.85")):
            await ceph.ceph("osd", f"set-{kind}-ratio", ratio)
        await storage.close()


def _fill(path: Path) -> str:
    done = subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=4k"], capture_output=True, check=False)
    return done.stderr.decode()


async def test_a_full_folder_is_no_space_and_leaves_nothing(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = build(StorageSettings(kind="file", directory=str(small_disk)))
    await storage.open()
    raw = tmp_path / "a.raw"
    raw.write_bytes(os.urandom(24 * MIB))
    qcow2_image(tmp_path / "a.qcow2", raw)
    qcow2_image(tmp_path / "c.qcow2", raw, "-c")
    for name in ("a.raw", "a.qcow2", "c.qcow2"):
        with pytest.raises(NoSpace, match=str(small_disk)):
            await storage.import_image(new_uuid(), str(tmp_path / name), None)
        assert await storage.images() == []
        assert [f.name for f in (small_disk / "images").iterdir()] == []
    small, image = tmp_path / "small.raw", new_uuid()
    raw_image(small)
    await storage.import_image(image, str(small), None)
    assert "No space left" in _fill(small_disk / "ballast")
    with pytest.raises(NoSpace):
        await storage.create_disk(new_uuid(), image, 8 * MIB)
    assert await storage.disks() == []
    await storage.close()


async def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="mount or create"):
        await build(StorageSettings(kind="file", directory=str(tmp_path / "absent"))).open()
    with pytest.raises(Refused, match="absolute"):
        await build(StorageSettings(kind="file", directory="")).open()
    assert run("ls", str(tmp_path)) == ""
