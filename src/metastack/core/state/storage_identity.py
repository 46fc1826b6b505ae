"""The cluster id: what this cluster marks its objects with, read from ``config/storage``."""

from __future__ import annotations

from .cluster_state import ClusterState


def cluster_id(world: ClusterState) -> str:
    """The cluster's own id; empty: none was recorded, and nothing is marked."""
    found = world.storage_identity()
    return found.record.cluster_id if found is not None and found.record is not None else ""
