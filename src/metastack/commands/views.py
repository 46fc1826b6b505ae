"""What readers see: records of many kinds as one VM, one node, one cluster. Pure.

Owns: the fields of the JSON output and how phase and message follow from the records.
Refuses: reading and writing. Rule: a view says only what its records prove; unknown is None, and a record
that cannot be read makes that one object ``broken`` and nothing else.
"""

from __future__ import annotations

from .cluster_view import ClusterView, cluster_view
from .image_views import ImageView, image_view, image_views
from .node_infos import NodeInfo, node_infos
from .vm_views import VmView, vm_view, vm_views, why_pending

__all__ = [
    "ClusterView",
    "ImageView",
    "NodeInfo",
    "VmView",
    "cluster_view",
    "image_view",
    "image_views",
    "node_infos",
    "vm_view",
    "vm_views",
    "why_pending",
]
