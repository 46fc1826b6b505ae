"""Group versions: what makes a rule over several nodes (at most one of a group in a zone) hard.

Owns: what a claim compares and writes for the rules that it bears on.
Refuses: knowing which those are (:meth:`metastack.core.placement.groups.Groups.group_versions`).
Rule: a claim into a domain that a hard rule looks at changes that rule's group version there.

# Safety: the claimer's view says that its claim breaks no rule. Another claim that one of those rules bears on
would have changed the same version: either it is in that view, or the comparison fails. So of two claims
decided from one view one loses, and looks again. An absent version means that no VM of its rule is in the
domain. It is dropped only if it has not changed since a view that has no such VM there. So a VM that came and
went in between does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..model import Group, VmId
from ..state.cluster_state import Seen, mod_of
from ..state.codec import encode
from ..transaction import Guard, Put

GroupVersions = Sequence[tuple[str, Seen[Group] | None]]
"""Of each rule that a claim bears on: the group version's key, and its record as the claimer's view has it."""


def compare_and_change(group_versions: GroupVersions, vm: VmId) -> tuple[tuple[Guard, ...], tuple[Put, ...]]:
    """Compare each group version, and change it."""
    guards = tuple(Guard(key, "mod", mod_of(found)) for key, found in group_versions)
    return guards, tuple(Put(key, encode(Group(vm=str(vm)))) for key, _ in group_versions)
