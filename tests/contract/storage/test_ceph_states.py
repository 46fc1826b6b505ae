"""Images in states that nobody expected: each is that image's trouble, told by its type."""

from __future__ import annotations

from pathlib import Path

import pytest
from storage_rig import MIB, new_uuid, raw_image

from metastack.lab.dev.ceph import MiniCeph
from metastack.ports import BadState, InUse, NotFound, ObjectFault, Refused
from metastack.storage.choose import build


@pytest.mark.ceph
async def test_an_image_whose_snapshot_is_not_as_it_should_be(ceph: MiniCeph, tmp_path: Path) -> None:
    storage = build(ceph.settings("cli"))
    await storage.open()
    try:
        image = new_uuid()
        raw_image(tmp_path / "a.raw")
        await storage.import_image(image, str(tmp_path / "a.raw"), None)
        name = f"vms/image-{image}"
        rbd = ("rbd", "-c", str(ceph.conf), "-k", str(ceph.admin_keyring))
        await ceph.run(*rbd, "snap", "unprotect", f"{name}@base")
        with pytest.raises(BadState, match="protected") as caught:
            await storage.create_disk(new_uuid(), image, 64 * MIB)
        assert isinstance(caught.value, Refused)
        assert isinstance(caught.value, ObjectFault)
        await ceph.run(*rbd, "snap", "create", f"{name}@by-hand")
        with pytest.raises(InUse, match="snap"):
            await storage.delete_image(image)
        await ceph.run(*rbd, "snap", "rm", f"{name}@by-hand")
        with pytest.raises(NotFound):
            await storage.create_disk(new_uuid(), image, 64 * MIB)  # the first try took "base" away
        await storage.delete_image(image)
        assert image not in await storage.images()
        with pytest.raises(BadState):
            await storage.disk("no/uuid")
    finally:
        await storage.close()
