"""Reading the guests' rings from the storage itself, while they write or after.

Owns: finding the object of an RBD image that holds the ring, and reading it. Refuses: understanding records.
Rule: the ring lies in one object, and an object is read by one operation: what is read is one moment's state.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

from metastack.ports import Broken, Unavailable

from ..ceph import MiniCeph
from ..cluster import POOL
from .ring import BYTES


class Disks:
    """The disks of some VMs, by volume UUID."""

    def __init__(self, ceph: MiniCeph, offset: int) -> None:
        self._ceph, self._offset = ceph, offset
        self._objects: dict[str, tuple[str, int]] = {}

    def ring(self, volume: str) -> bytes:
        """The ring's bytes at this moment; empty when the guest never wrote. Raises Unavailable."""
        return asyncio.run(self._ring(volume))

    async def _ring(self, volume: str) -> bytes:
        name, start = await self._object(volume)
        with tempfile.TemporaryDirectory(prefix="ring", dir=self._ceph.directory) as folder:
            into = Path(folder) / "object"
            try:
                await self._ceph.run("rados", "-c", str(self._ceph.conf), "-p", POOL, "get", name, str(into))
            except Unavailable as error:
                if "No such file" in str(error):
                    return b""  # still the image's own
                raise
            return into.read_bytes()[start : start + BYTES]

    async def _object(self, volume: str) -> tuple[str, int]:
        if volume not in self._objects:
            listed = (await self._ceph.run("rbd", "-c", str(self._ceph.conf), "ls", POOL)).decode().split()
            image = next((name for name in listed if volume in name), None)
            if image is None:
                raise Broken(f"no image of volume {volume} among {listed}")
            spec = f"{POOL}/{image}"
            said = await self._ceph.run("rbd", "-c", str(self._ceph.conf), "info", spec, "--format", "json")
            info = json.loads(said)
            number, start = divmod(self._offset, int(info["object_size"]))
            if start + BYTES > int(info["object_size"]):
                raise Broken(f"{spec}: the ring lies in two objects")
            self._objects[volume] = (f"{info['block_name_prefix']}.{number:016x}", start)
        return self._objects[volume]
