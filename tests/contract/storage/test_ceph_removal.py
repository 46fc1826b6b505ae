"""Removals of images that stopped halfway, or met another one at it.

``rbd rm`` moves an image to the trash first (source ``REMOVING``) and removes it there; it moves it back when
somebody has it open. A removal that dies in between leaves it in the trash, and `rbd ls` still lists it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import rados
import rbd
from storage_rig import MIB, new_uuid, raw_image

from metastack.ports import Storage
from metastack.settings import StorageSettings
from metastack.storage.ceph.handle import Handle
from metastack.storage.ceph.images import TRASH

pytestmark = pytest.mark.ceph
SOURCE_AT, USER, REMOVING = 6, 0, 3
"""Ceph's TrashImageSpec: version, least version, length (4 bytes), then who put it there."""


def begin_removal(handle: Handle, name: str) -> None:
    """As far as librbd has come when it dies after its first step."""
    with handle.image(name, read_only=False) as image:
        ident = image.id()
        image.unprotect_snap("base")
        image.remove_snap("base")
    rbd.RBD().trash_move(handle.ioctx, name, 0)
    key = f"id_{ident}"
    spec = bytearray(in_the_trash(handle)[key])
    assert spec[SOURCE_AT] == USER
    spec[SOURCE_AT] = REMOVING
    with rados.WriteOpCtx() as write:
        handle.ioctx.set_omap(write, (key,), (bytes(spec),))
        handle.ioctx.operate_write_op(write, TRASH)


def in_the_trash(handle: Handle) -> dict[str, bytes]:
    """All of it: ``trash_list`` leaves out what a removal put there."""
    with rados.ReadOpCtx() as read:
        values, _ = handle.ioctx.get_omap_vals(read, "", "id_", 1000)
        handle.ioctx.operate_read_op(read, TRASH)
        return dict(values)


@pytest.mark.parametrize("settings", ["ceph"], indirect=True)
async def test_a_removal_that_died_halfway_is_finished(
    storage: Storage, settings: StorageSettings, tmp_path: Path
) -> None:
    raw_image(tmp_path / "a.raw", 6 * MIB)
    image = new_uuid()
    await storage.import_image(image, str(tmp_path / "a.raw"), None)
    handle = Handle(settings)
    try:
        begin_removal(handle, f"image-{image}")
        assert image in await storage.images()
        await storage.delete_image(image)
        assert image not in await storage.images()
        assert not any(image.encode() in value for value in in_the_trash(handle).values())
    finally:
        handle.retire()
