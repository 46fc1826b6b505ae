"""Notices: how a claim learns of a group rule that its claimer has not heard of.

Owns: which notices a spec gives and which a claim heeds. Refuses: the rules themselves
(:mod:`metastack.core.placement.groups`), and what two claims of known rules compare (:mod:`.tokens`).
Rule: whoever writes a VM that is wanted and keeps others away over several nodes (a zone, a rack) puts, in the
same transaction, a notice under one label that all of those others carry. Every claim of a VM with labels
compares the notice of each of them.

# Safety: a claim is decided from a view. Of a rule that is in that view it bears the token. One that is not was
written, or switched on, after that view, and so put a notice that the claim compares and that is another one
by now: the claim is lost, and decided anew. A notice is dropped only while no spec asks for it, so it cannot
have been absent before and after.
"""

from __future__ import annotations

import hashlib

from .change import Put
from .codec import encode
from .keys import Keys
from .model import Group, Power, VmSpec

NOTICE = "notice"
"""In a group's key where a token has a domain."""


def of_rules(spec: VmSpec) -> set[str]:
    """The groups that this VM's rules give notice to. What one node alone decides needs none, and a rule
    without labels, which no command writes, has none."""
    found: set[str] = set()
    for term in spec.placement.anti_affinity:
        if term.required and term.topology != "node" and term.labels:
            found.add(_ident(*min(term.labels.items())))
    return found


def of_labels(spec: VmSpec) -> list[str]:
    """The groups whose notices a claim of this VM heeds, sorted."""
    return sorted(_ident(key, value) for key, value in spec.labels.items())


def given(keys: Keys, before: VmSpec | None, after: VmSpec) -> tuple[Put, ...]:
    """What to write together with a spec, for each rule of it that counts from now on."""
    if after.power is not Power.ON or not (rules := of_rules(after)):
        return ()
    if (
        before is not None
        and before.power is Power.ON
        and before.run == after.run
        and before.uuid == after.uuid
    ):
        rules -= of_rules(before)
    record = encode(Group(vm=str(after.id)))
    return tuple(Put(keys.group(after.project, group, NOTICE), record) for group in sorted(rules))


def _ident(key: str, value: str) -> str:
    return hashlib.blake2b(f"{key}={value}".encode(), digest_size=8).hexdigest()
