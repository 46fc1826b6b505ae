"""``metastack vm rebuild``: a lost disk is made once more, and what was on it is given up.

Owns: this verb's options and its question. Refuses: the rules (:mod:`metastack.commands.vm.rebuild`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..frame import Reason, Yes, frame_of, verb
from ..session import confirm, note, with_storage
from .options import Name, Project, app, new_request, vm_id, vm_printer

if TYPE_CHECKING:
    from metastack.commands.request import Cluster
    from metastack.commands.vm.views import VmView
    from metastack.ports import Storage


@verb(app)
def rebuild(
    ctx: typer.Context,
    name: Name,
    from_image: Annotated[
        bool, typer.Option("--from-image", help="Make an empty copy of the image; the old content is lost.")
    ] = False,
    project: Project = "",
    yes: Yes = False,
    reason: Reason = "",
) -> None:
    """Recreate the lost disk of a VM from its image.

    The disk must be neither in the storage nor in its trash. The next start of the VM creates it.
    """
    from metastack.commands.problem import usage
    from metastack.commands.vm.change import label_of
    from metastack.commands.vm.look import look_at_vm
    from metastack.commands.vm.rebuild import check_reason, rebuild_vm

    vm, frame, request = vm_id(name, project), frame_of(ctx), new_request(reason)
    if not from_image:
        raise usage(label_of(vm), "needs the source of its new disk", "give --from-image")
    check_reason(vm, reason)
    confirm(f"Create a new disk of VM {vm} from its image? The content of the lost disk is given up.", yes)

    async def work(cluster: Cluster, storage: Storage) -> VmView | None:
        changed = await rebuild_vm(cluster, storage, request, vm)
        note(frame, f"{vm}: the next start creates its disk" if changed.changed else f"{vm}: unchanged")
        view = await look_at_vm(cluster, vm)
        if view is not None and changed.changed and view.phase == "failed":
            view.message = "the next start creates its disk"  # its node still says what was wrong before
        return view

    view = with_storage(frame, work, label_of(vm))
    if view is not None:
        vm_printer(frame).one(view)
