"""Which storage adapter a process uses.

Owns: the choice by ``kind``. Refuses: unknown kinds. Rule: only the chosen adapter is imported, since a
machine with file storage has neither rados nor rbd.
"""

from __future__ import annotations

from metastack.ports import Refused, Storage
from metastack.settings import StorageSettings


def build(settings: StorageSettings) -> Storage:
    """The adapter, not opened yet."""
    if settings.kind == "ceph":
        try:
            from .ceph.storage import CephStorage
        except ImportError as error:
            raise Refused(
                f"storage of kind ceph needs Debian's python3-rados and python3-rbd in this Python: {error}"
            ) from None
        return CephStorage(settings)
    if settings.kind == "file":
        from .files.storage import FileStorage

        return FileStorage(settings)
    raise Refused(f"unknown storage kind {settings.kind!r}: ceph or file")
