"""``metastack project``: list and create.

Owns: the verbs' options and what they print. Refuses: rules (:mod:`metastack.commands.cluster.projects`).
Rule: ``default`` is always there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct

from .frame import Frame, Reason, frame_of, noun, verb
from .session import with_cluster

if TYPE_CHECKING:
    from metastack.core.model import Project
    from metastack.core.state.cluster_state import Seen

    from .output import Printer

app = noun("project", "Projects.")


class ProjectView(Struct, kw_only=True):
    """A project as a reader sees it."""

    name: str
    created: str | None = None
    by: str | None = None
    message: str | None = None
    broken: bool = False


def _view(name: str, found: Seen[Project]) -> ProjectView:
    project = found.record
    if project is None:
        return ProjectView(name=name, broken=True, message=f"unreadable record, ignored: {found.why}")
    return ProjectView(name=name, created=project.created or None, by=project.by or None)


def _printer(frame: Frame) -> Printer[ProjectView]:
    from .output import Column, Printer, age

    columns: list[Column[ProjectView]] = [
        Column("NAME", lambda v: v.name),
        Column("AGE", lambda v: age(v.created)),
        Column("BY", lambda v: v.by, wide=True),
        Column("MESSAGE", lambda v: v.message),
    ]
    return Printer(frame.output, columns, lambda v: v.name)


@verb(app, "list")
def list_(ctx: typer.Context) -> None:
    """List projects."""
    from metastack.commands.cluster.projects import list_projects

    frame = frame_of(ctx)
    _printer(frame).list([_view(*pair) for pair in with_cluster(frame, list_projects)])


@verb(app)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    reason: Reason = "",
) -> None:
    """Create a project."""
    from metastack.commands import names
    from metastack.commands.cluster.projects import create_project
    from metastack.commands.request import new_request

    frame, request = frame_of(ctx), new_request(reason)
    names.name("project", name)
    project = with_cluster(frame, lambda cluster: create_project(cluster, request, name))
    _printer(frame).one(ProjectView(name=project.name, created=project.created, by=project.by))
