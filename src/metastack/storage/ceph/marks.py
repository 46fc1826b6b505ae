"""Marks on RBD images: metadata that says whose an image is, and for which image id it was written.

Owns: the metadata key. Refuses: judging a mark (:mod:`metastack.ports.ownership`).
Rule: librbd copies metadata with ``rbd cp`` and ``rbd clone``, never the image id; so the id is in the mark.

Everything here blocks: it runs in the adapter's threads.
"""

from __future__ import annotations

from typing import Final

import rbd

from metastack.ports import Mark
from metastack.ports.ownership import Found, parsed, written

KEY: Final = "metastack_mark"


def read(image: rbd.Image) -> Found | None:
    """The mark on an open image."""
    try:
        return parsed(image.metadata_get(KEY))
    except (KeyError, rbd.ImageNotFound):
        return None


def write(image: rbd.Image, mark: Mark) -> None:
    """Mark an image that is open for writing."""
    if mark.cluster:
        image.metadata_set(KEY, written(mark, str(image.id())).decode())
