"""``metastack image``: import, look at, delete.

Owns: the verbs' options, the choice between file and URL.
Refuses: image formats (the storage's business). Rule: a failed or interrupted import leaves nothing, neither
in the storage nor in the temporary folder.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from .complete import image_names
from .frame import Frame, Output, Reason, Yes, frame_of, noun, verb
from .progress import Bar
from .session import confirm, note, with_cluster, with_storage
from .streams import printable

if TYPE_CHECKING:
    from metastack.commands.image.views import ImageView
    from metastack.commands.request import Cluster
    from metastack.core.model import Image
    from metastack.ports import Storage

    from .output import Printer

app = noun("image", "Images that disks are cloned from.")

Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=image_names)]


class Format(StrEnum):
    RAW = "raw"
    QCOW2 = "qcow2"


def _printer(frame: Frame) -> Printer[ImageView]:
    from metastack.core.quantity import format_bytes

    from .output import Column, Printer, age

    columns: list[Column[ImageView]] = [
        Column("NAME", lambda v: v.name),
        Column("STATE", lambda v: "broken" if v.broken else v.state),
        Column("FORMAT", lambda v: v.format),
        Column("SIZE", lambda v: None if v.size_bytes is None else format_bytes(v.size_bytes)),
        Column("VMS", lambda v: None if v.vms is None else str(v.vms)),
        Column("AGE", lambda v: age(v.created)),
        Column("SOURCE", lambda v: v.source, wide=True),
        Column("BY", lambda v: v.by, wide=True),
        Column("SHA256", lambda v: v.sha256, wide=True),
        Column("UUID", lambda v: v.uuid, wide=True),
        Column("MESSAGE", lambda v: v.message),
    ]
    return Printer(frame.output, columns, lambda v: v.name)


@verb(app, "import")
def import_(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the image.")],
    source: Annotated[str, typer.Argument(metavar="FILE|URL", help="A local file, http:// or https://.")],
    format: Annotated[
        Format | None, typer.Option("--format", help="Format of the file. [default: detected]")
    ] = None,
    sha256: Annotated[
        str, typer.Option("--sha256", metavar="HEX", help="Expected checksum; another one is refused.")
    ] = "",
    reason: Reason = "",
) -> None:
    """Import an image into the storage."""
    from metastack.commands import names
    from metastack.commands.image.import_ import import_image
    from metastack.commands.request import new_request
    from metastack.ports import DiskFormat

    from .image_download import is_url, local_file, without_password

    frame = frame_of(ctx)
    request = new_request(reason)
    fmt = DiskFormat(format.value) if format is not None else None

    async def work(cluster: Cluster, storage: Storage) -> Image:
        bar = Bar(frame, f"importing {name}", sizes=False)
        try:
            return await import_image(cluster, storage, request, name, path, fmt, shown, bar, wanted)
        finally:
            bar.end()

    names.name("image", name)
    wanted = names.sha256(sha256)
    shown = printable(without_password(source) if is_url(source) else source)
    fetching = Bar(frame, f"fetching {name}")
    try:
        with local_file(source, fetching, lambda: _refuse_taken(frame, name)) as path:
            fetching.end()
            with_storage(frame, work, f"image {name}")
    except KeyboardInterrupt:
        fetching.end()
        note(frame, f"image {name}: interrupted; the partial import was removed")
        raise
    _printer(frame).one(with_cluster(frame, lambda cluster: _show(cluster, name)))


def _refuse_taken(frame: Frame, name: str) -> None:
    """Before a long download: is the name free, and is there a storage at all?"""
    from metastack.commands.problem import conflict
    from metastack.core.model import Image

    async def work(cluster: Cluster) -> None:
        if await cluster.read(Image, cluster.keys.image(name)) is not None:
            raise conflict(f"image {name}", "exists already", "choose another name, or delete it first")

    with_cluster(frame, work)


async def _show(cluster: Cluster, name: str) -> ImageView:
    from metastack.commands.image.views import image_views
    from metastack.commands.problem import not_found
    from metastack.commands.reading import IMAGES, read_world

    world = await read_world(cluster, cluster.keys.prefixes(IMAGES))
    for view in image_views(world):
        if view.name == name:
            return view
    raise not_found(f"image {name}", "`metastack image list` shows the images")


@verb(app, "list")
def list_(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep printing changes.")] = False,
) -> None:
    """List images."""
    from metastack.commands.image.views import image_views
    from metastack.commands.reading import IMAGES

    from .watching import print_list

    frame = frame_of(ctx)
    printer = _printer(frame)
    with_cluster(
        frame,
        lambda cluster: print_list(
            cluster, cluster.keys.prefixes(IMAGES), image_views, printer, watch, lambda view: view.name
        ),
    )


@verb(app)
def show(ctx: typer.Context, name: Name) -> None:
    """Show everything about one image."""
    frame = frame_of(ctx)
    _printer(frame).one(with_cluster(frame, lambda cluster: _show(cluster, name)), detail=True)


@verb(app)
def delete(
    ctx: typer.Context,
    name: Name,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also delete the trashed disks that were made from it.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until no trashed disk needs it.")] = False,
    yes: Yes = False,
    reason: Reason = "",
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0.1, help="Maximum wait, seconds.")
    ] = 120.0,
) -> None:
    """Delete an image that no VM uses.

    Deleted disks stay in the trash for a while and need their image.
    Such an image is marked, and deleted after the last of them.
    """
    from metastack.commands import names
    from metastack.commands.image.delete import Deletion, delete_image
    from metastack.commands.image.views import ImageView
    from metastack.commands.request import new_request

    names.name("image", name)
    trash = " and permanently every disk in the trash that was made from it" if purge else ""
    frame, request = frame_of(ctx), new_request(reason)
    confirm(f"Delete image {name}{trash}?", yes)

    async def work(cluster: Cluster, storage: Storage) -> Deletion:
        return await delete_image(
            cluster,
            storage,
            request,
            name,
            purge=purge,
            wait=wait,
            timeout_s=timeout,
            progress=lambda text: note(frame, f"image {name}: {text}"),
        )

    done = with_storage(frame, work, f"image {name}")
    if frame.output in (Output.TABLE, Output.WIDE):
        print(f"image {name} {'deleted' if done.gone else 'is marked for deletion: ' + done.message}")
        return
    state = None if done.gone else done.image.state.value
    _printer(frame).one(ImageView(name=name, state=state, message=done.message, deleted=done.gone))
