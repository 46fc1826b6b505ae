"""A local file becomes an RBD image, in chunks, without its zeros.

Owns: one import from opening the file to the finished image. Refuses: leaving half an image behind.
Rule: whatever goes wrong, also a cancelled await, what this import created is removed before it returns.

Everything here blocks: it runs in the adapter's threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import rbd
import structlog

from metastack.ports import DiskFormat, Fenced, ImageInfo, Mark, NoSpace, Progress, Refused, Unavailable

from .. import image_source as source
from . import images as ceph_images
from . import marks as ceph_marks
from .errors import mapped
from .handle import Handle

log = structlog.get_logger()


def run(
    handle: Handle,
    uuid: str,
    path: str,
    fmt: DiskFormat | None,
    progress: Progress,
    size_limit: int,
    stop: threading.Event,
    mark: Mark,
) -> ImageInfo:
    opened = source.open_source(path, fmt, size_limit)
    try:
        handle.refuse_when_full()
        if opened.format is DiskFormat.RAW:
            with _new_image(handle, uuid, opened.size_bytes, mark) as image:
                sha256 = source.copy(opened.fd, opened.size_bytes, image.write, progress, stop)
        else:
            # Three passes: read for the checksum, unpack, copy. Progress counts the first and the last.
            total = opened.file_bytes + opened.size_bytes
            sha256 = source.checksum(opened, lambda done, _: progress(done, total), stop)
            unpacked = source.spool(opened, "", stop)
            try:
                # The digest is the file's: the disk's would cost minutes for what is nearly all zeros.
                with _new_image(handle, uuid, opened.size_bytes, mark) as image:
                    source.fill(
                        unpacked,
                        opened.size_bytes,
                        image.write,
                        lambda done, _: progress(opened.file_bytes + done, total),
                        stop,
                    )
            finally:
                os.close(unpacked)
    finally:
        source.close(opened)
    return ImageInfo(size_bytes=opened.size_bytes, sha256=sha256, format=opened.format)


@contextmanager
def _new_image(handle: Handle, uuid: str, size_bytes: int, mark: Mark) -> Iterator[rbd.Image]:
    """An image to write into, finished when the body ends, and removed when it fails."""
    ceph_images.start_import(handle, uuid, size_bytes)
    try:
        with (
            mapped(f"writing image {uuid}"),
            handle.image(ceph_images.IMPORT + uuid, read_only=False) as image,
        ):
            ceph_marks.write(image, mark)
            yield image
            image.flush()
        ceph_images.finish_import(handle, uuid)
    except BaseException as error:
        _undo(handle, uuid, mark)
        if isinstance(error, Unavailable) and not isinstance(error, Fenced | NoSpace):
            handle.refuse_when_full()
        raise


def _undo(handle: Handle, uuid: str, mark: Mark) -> None:
    try:
        # What this very import made, perhaps too early for its mark.
        ceph_images.delete_image(handle, uuid, mark, unmarked=True)
    except (Refused, Unavailable, rbd.Error) as error:
        # Whoever reads the record's "importing" finds it dead and deletes the image again.
        log.warning("import_cleanup_failed", image=uuid, error=str(error))
