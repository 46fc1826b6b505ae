"""What readers see: records of many kinds as one VM, one node, one cluster. Pure.

Owns: the fields of the JSON output and how phase and message follow from the records.
Refuses: reading and writing. Rule: a view says only what its records prove; unknown is None, and a record
that cannot be read makes that one object ``broken`` and nothing else.
"""

from __future__ import annotations

from .cluster.status import ClusterView, cluster_view
from .image.views import ImageView, image_view, image_views
from .node.views import NodeInfo, node_infos
from .vm.views import VmView, vm_view, vm_views, why_pending

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
