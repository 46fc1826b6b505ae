"""Projects: the name spaces in which VM names are unique.

Owns: ``config/projects``. Refuses: removing one (quotas and members come with identities).
Rule: ``default`` exists without a record, every other project only with one.
"""

from __future__ import annotations

from metastack.core.model import Project
from metastack.core.state.cluster_state import Seen, seen
from metastack.core.state.codec import encode
from metastack.core.state.keys import Kind
from metastack.core.transaction import Guard, Put

from .. import names
from ..problem import conflict, not_found
from ..request import Cluster, Plan, Request, commit


async def create_project(cluster: Cluster, request: Request, name: str) -> Project:
    """Make a project."""
    names.name("project", name)
    names.reason(request.reason)
    key = cluster.keys.project(name)
    project = Project(
        name=name, created=request.at, by=request.by, reason=request.reason, request_id=request.request_id
    )

    async def look() -> Plan[Project]:
        if name == names.DEFAULT_PROJECT or await cluster.store.get(key) is not None:
            raise conflict(f"project {name}", "exists already")
        return Plan(
            guards=(Guard(key, "mod", 0),),
            effects=(Put(key, encode(project)),),
            what="project.create",
            object=f"project {name}",
            answer=project,
        )

    return await commit(cluster, request, look)


async def need_project(cluster: Cluster, name: str) -> None:
    """Raise Problem when there is no such project."""
    names.name("project", name)
    if name != names.DEFAULT_PROJECT and await cluster.store.get(cluster.keys.project(name)) is None:
        raise not_found(f"project {name}", "`metastack project list` shows the projects")


async def list_projects(cluster: Cluster) -> list[tuple[str, Seen[Project]]]:
    """Every project with its record, ``default`` always among them."""
    prefix = cluster.keys.prefix(Kind.PROJECT)
    snapshot = await cluster.store.list(prefix)
    found = {entry.key.removeprefix(prefix): seen(Project, entry) for entry in snapshot.entries}
    found.setdefault(names.DEFAULT_PROJECT, Seen(Project(name=names.DEFAULT_PROJECT), 0, 0))
    return sorted(found.items())
