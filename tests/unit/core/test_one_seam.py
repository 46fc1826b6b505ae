"""Every write goes through the seam that keeps to the cluster's record level: read off the syntax tree."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[3] / "src" / "metastack"
SEAMS = {
    "commands/request.py": "Cluster.commit, which rewrites the change itself",
    "commands/joining/asking.py": "the bearer of a token may read its own exchange, and not the level",
    "ports/levelled.py": "the seam",
    "ports/wrapped_store.py": "what the seam is made from",
    "lab/sim/engine/older_store.py": "the codec of an older release, below the seam",
    "lab/sim/engine/agent_rights.py": "the judge of rights, below the seam",
    "lab/sim/engine/wire.py": "the simulated wire, below the seam",
}
"""Modules that may give a change to a store which does not keep to the level, and why."""
GIVEN = ("agent", "scheduler")
"""Parts whose store is wrapped where it comes in, so whatever they commit passes the seam."""


def commits(path: Path) -> list[int]:
    """Lines that commit to something called a store."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        target = node.func.value
        called = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        if node.func.attr == "commit" and called.strip("_") in ("store", "inner"):
            found.append(node.lineno)
    return found


def test_only_the_seams_commit_to_a_plain_store() -> None:
    found = {
        str(path.relative_to(SOURCE)): lines
        for path in sorted(SOURCE.rglob("*.py"))
        if (lines := commits(path))
    }
    assert "commands/request.py" in found, "the check sees nothing any more"
    strangers = [name for name in found if name not in SEAMS and not name.startswith(GIVEN)]
    assert strangers == [], "write through commands/request.commit or ports.Levelled"


def test_what_agents_and_schedulers_are_given_is_wrapped_first() -> None:
    for path in ("agent/agent.py", "scheduler/scheduler.py"):
        source = (SOURCE / path).read_text()
        wrapped = source.index("store = Levelled(store, keys")
        for user in ("Session(\n", "Node(\n", "Election(", "Advice("):
            if user in source:
                assert wrapped < source.index(user), f"{path}: {user.strip('(')} has the plain store"
