"""An image as readers see it. Pure."""

from __future__ import annotations

from msgspec import Struct

from metastack.core.model import Image
from metastack.core.state.cluster_state import ClusterState, Seen


class ImageView(Struct, kw_only=True):
    """An image as a reader sees it."""

    name: str
    state: str | None = None
    uuid: str | None = None
    format: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    source: str | None = None
    vms: int | None = None
    created: str | None = None
    by: str | None = None
    importer: str | None = None
    message: str | None = None
    broken: bool = False
    deleted: bool = False


def image_view(name: str, found: Seen[Image], users: int | None) -> ImageView:
    image = found.record
    if image is None:
        return ImageView(name=name, broken=True, message=f"unreadable record, ignored: {found.why}")
    return ImageView(
        name=name,
        state=image.state.value,
        uuid=image.uuid,
        format=image.format,
        size_bytes=image.size_bytes or None,
        sha256=image.sha256 or None,
        source=image.source or None,
        vms=users,
        created=image.created or None,
        by=image.by or None,
        importer=image.importer or None,
        message=image.message or None,
    )


def image_views(world: ClusterState) -> list[ImageView]:
    users: dict[str, int] = {}
    for _, found in world.specs():
        if found.record is not None:
            users[found.record.image_uuid] = users.get(found.record.image_uuid, 0) + 1
    return [
        image_view(name, found, users.get(found.record.uuid, 0) if found.record else None)
        for name, found in sorted(world.images())
    ]
