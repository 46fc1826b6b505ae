"""A pending VM, and its place in the line."""

from __future__ import annotations

from msgspec import Struct

from ..model import VmId, VmSpec

Line = tuple[int, int, str, str]
"""Negative priority, revision of the request, project, name: the place in the line."""


class PendingVm(Struct):
    """A VM that should run and that no session owns."""

    vm: VmId
    line: Line
    spec: VmSpec
    head: tuple[str, ...] = ()
    """Nodes that should try, best first; it is virtually assigned to the first. Empty: none would now."""
    held: str = ""
    """Why it is not its time yet."""
