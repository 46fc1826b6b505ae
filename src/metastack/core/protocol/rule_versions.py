"""Rule versions: how a claim learns of a group rule, or of labels, that its claimer has not heard of.

Owns: which rule versions a spec changes and which a claim compares. Refuses: the rules themselves
(:mod:`metastack.core.placement.groups`), and what two claims of known rules compare (:mod:`.group_versions`).
Rule: a VM that is wanted may keep others away over several nodes (a zone, a rack). The writer of its spec puts,
in the same transaction, a rule version under one label that all of those carry. A change of a VM's labels puts
one under each that it has. Every claim compares those of its VM's labels, and of its VM's rules.

# Safety: a claim is decided from a view. For a rule in that view, the claim compares the group version. A rule
that is not in it was written, or switched on, later. Its writer changed a rule version that the claim compares,
so the claim fails and is decided again. The same holds for a VM with the rule, when a VM that runs already was
given the rule's labels meanwhile. A rule version is dropped only while no spec has a rule that asks for it, so
it cannot have been absent before and after.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from ..model import Group, GroupTerm, Power, VmSpec
from ..state.cluster_state import Seen
from ..state.codec import encode
from ..state.keys import Keys
from ..transaction import Guard, Put
from .guards import unchanged

RuleVersions = Sequence[tuple[str, Seen[Group] | None]]
"""Of each label and rule that a claim bears on: the rule version's key and record, as the claimer's view has
it."""
RULE_VERSION: Final = "notice"
"""In a group's key where a group version has a domain."""
VERSIONS_PER_PROJECT: Final = 16
"""Number of rule versions of a project: labels share them, or a claim of a VM with many would be too large for
one transaction. A rule version that was about another label costs a claim another look."""


def of_rules(spec: VmSpec) -> set[str]:
    """The rule versions that this VM's rules change."""
    return {_under(*min(term.labels.items())) for term in _rules(spec)}


def of_labels(spec: VmSpec) -> set[str]:
    """The rule versions under this VM's labels."""
    return {_under(key, value) for key, value in spec.labels.items()}


def heeded(spec: VmSpec) -> list[str]:
    """The rule versions that a claim of this VM compares, sorted."""
    return sorted(of_labels(spec) | of_rules(spec))


def given(keys: Keys, before: VmSpec | None, after: VmSpec) -> tuple[Put, ...]:
    """What to write together with a spec: for each rule of it that counts from now on, and for new labels."""
    fresh = _rules(after) if after.power is Power.ON else []
    if before is not None and _same_run(before, after):
        known = _rules(before)
        fresh = [term for term in fresh if term not in known]
    found = {_under(*min(term.labels.items())) for term in fresh}
    if before is not None and not after.labels.items() <= before.labels.items():
        # All of them: the one that a rule is told by may be one that it had.
        found |= of_labels(after)
    record = encode(Group(vm=str(after.id)))
    return tuple(Put(keys.group(after.project, group, RULE_VERSION), record) for group in sorted(found))


def compare_rule_versions(rule_versions: RuleVersions) -> tuple[Guard, ...]:
    """Compare each rule version, and leave it as it is."""
    return tuple(unchanged(key, found) for key, found in rule_versions)


def _rules(spec: VmSpec) -> list[GroupTerm]:
    """Rules that need a rule version. What one node alone decides does not, and one without labels, which no
    command writes, has none."""
    return [t for t in spec.placement.anti_affinity if t.required and t.topology != "node" and t.labels]


def _same_run(before: VmSpec, after: VmSpec) -> bool:
    return (before.uuid, before.power, before.run) == (after.uuid, after.power, after.run)


def _under(key: str, value: str) -> str:
    digest = hashlib.blake2b(f"{key}={value}".encode(), digest_size=8).digest()
    return f"labels-{int.from_bytes(digest, 'big') % VERSIONS_PER_PROJECT:02}"
