"""Fixtures of the storage contract; see storage_rig."""

from storage_rig import ceph, settings, small_disk, spool, storage

__all__ = ["ceph", "settings", "small_disk", "spool", "storage"]
