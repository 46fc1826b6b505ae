"""Groups: affinity, anti-affinity and spread by labels over a topology, counted as VMs come and go.

Owns: how many VMs of a group are in each domain, and what that means for one more.
Refuses: reading the world; an engine says who was placed where.
Rule: an anti-affinity binds both sides: who carries its labels is kept away from who asked for it, too.

Hard group rules are proven by the claim: it bears a group version for each (group, domain) that the rule looks
at (:meth:`Groups.group_versions`), so two claims decided from one view cannot both be committed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator

from msgspec import Struct

from ..model import GroupTerm, SpreadTerm, VmId, VmSpec
from .nodes import NodeView


class Group(Struct, frozen=True):
    """The VMs of a project that carry all these labels, over one topology."""

    project: str
    labels: tuple[tuple[str, str], ...]
    topology: str

    @property
    def text(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self.labels)

    @property
    def ident(self) -> str:
        """A name for it that may be part of a key."""
        whole = f"{self.text}\0{self.topology}".encode()
        return hashlib.blake2b(whole, digest_size=8).hexdigest()

    def holds(self, spec: VmSpec) -> bool:
        return spec.project == self.project and all(spec.labels.get(k) == v for k, v in self.labels)


def group_of(spec: VmSpec, term: GroupTerm | SpreadTerm) -> Group:
    return Group(spec.project, tuple(sorted(term.labels.items())), term.topology)


def has_terms(spec: VmSpec) -> bool:
    place = spec.placement
    return bool(place.affinity or place.anti_affinity or place.spread)


_Labels = tuple[tuple[str, str], ...]


class Groups:
    """Counts of members and of who keeps them away, by domain."""

    def __init__(self, nodes: dict[str, NodeView]) -> None:
        self._nodes = nodes
        self._known: dict[Group, None] = {}
        self.wide = False
        """Somebody asked to be near others, or even with them."""
        self._by_label: dict[tuple[str, str, str], list[Group]] = {}
        self._members: dict[Group, Counter[str]] = {}
        self._keepers: dict[Group, Counter[str]] = {}
        """Domains of VMs that have a required anti-affinity to the group."""
        self._askers: dict[VmId, tuple[Group, ...]] = {}
        """Groups that a VM asks for such an anti-affinity to, whether it is placed, waits or is held back."""
        self._asked: Counter[Group] = Counter()
        """How many VMs do, of each."""
        self._labelled: dict[tuple[str, str, str], Counter[tuple[_Labels, str]]] = {}
        """VMs by project and each label, as all their labels and the node: a new group looks at those only."""

    def over(self, nodes: dict[str, NodeView]) -> Groups:
        """The same counts over other views of the nodes, to be changed apart from these."""
        other = Groups(nodes)
        other._known, other.wide = dict(self._known), self.wide
        other._by_label = {label: list(groups) for label, groups in self._by_label.items()}
        other._members = {group: Counter(counts) for group, counts in self._members.items()}
        other._keepers = {group: Counter(counts) for group, counts in self._keepers.items()}
        other._askers, other._asked = dict(self._askers), Counter(self._asked)
        other._labelled = {label: Counter(counts) for label, counts in self._labelled.items()}
        return other

    def members(self, group: Group) -> dict[str, int]:
        """VMs of a known group by domain."""
        return dict(sorted(self._members[group].items()))

    # --- who is where

    def asks(self, vm: VmId, spec: VmSpec | None, placed: Iterable[tuple[VmSpec, str]]) -> None:
        """The rules of this VM count from now on (:meth:`group_versions`); None: it has none any more."""
        terms = spec.placement.anti_affinity if spec is not None else ()
        if not terms and vm not in self._askers:
            return
        for group in self._askers.pop(vm, ()):
            self._asked[group] -= 1
            if not self._asked[group]:
                del self._asked[group]
        if spec is not None and terms:
            self.know(spec, placed)
            self._askers[vm] = tuple(group_of(spec, term) for term in terms if term.required)
            self._asked.update(self._askers[vm])

    def know(self, spec: VmSpec, placed: Iterable[tuple[VmSpec, str]]) -> None:
        """Count the groups that this VM's terms name; those already placed are looked through once a group."""
        self.wide = self.wide or bool(spec.placement.affinity or spec.placement.spread)
        for term in terms(spec):
            group = group_of(spec, term)
            if group in self._known:
                continue
            self._known[group] = None
            self._members[group], self._keepers[group] = Counter(), Counter()
            for key, value in group.labels[:1]:
                self._by_label.setdefault((group.project, key, value), []).append(group)
            if not group.labels:
                for other, node in placed:
                    if group.holds(other):
                        self._count(self._members[group], group, node, 1)
                continue
            wanted = set(group.labels)
            for (labels, node), count in self._labelled.get((group.project, *group.labels[0]), {}).items():
                if wanted.issubset(labels):
                    self._count(self._members[group], group, node, count)

    def place(self, spec: VmSpec, node: str, sign: int = 1) -> None:
        """A VM is on a node now, or (sign -1) no longer."""
        if spec.labels:
            labels = tuple(sorted(spec.labels.items()))
            for key, value in labels:
                counts = self._labelled.setdefault((spec.project, key, value), Counter())
                counts[labels, node] += sign
                if not counts[labels, node]:
                    del counts[labels, node]
                if not counts:
                    del self._labelled[spec.project, key, value]
        if self._by_label:
            for group in self._of(spec):
                self._count(self._members[group], group, node, sign)
        for term in spec.placement.anti_affinity:
            if term.required:
                group = group_of(spec, term)
                self._count(self._keepers[group], group, node, sign)

    def _count(self, counter: Counter[str], group: Group, node: str, sign: int) -> None:
        view = self._nodes.get(node)
        domain = view.domain(group.topology) if view is not None else ""
        if domain:
            counter[domain] += sign
            if not counter[domain]:
                del counter[domain]

    def _of(self, spec: VmSpec) -> Iterator[Group]:
        """Known groups that a VM is a member of."""
        for key, value in sorted(spec.labels.items()):
            for group in self._by_label.get((spec.project, key, value), ()):
                if group.holds(spec):
                    yield group

    def of(self, spec: VmSpec) -> set[Group]:
        """Groups whose rules have something to say about this VM: its terms', and known ones that it is in."""
        if not has_terms(spec) and not self._by_label:
            return set()
        return {group_of(spec, term) for term in terms(spec)} | set(self._of(spec))

    def bear_on(self, spec: VmSpec) -> bool:
        """Any group rule, its own or another's, has something to say about this VM."""
        return has_terms(spec) or (bool(self._by_label) and next(self._of(spec), None) is not None)

    # --- what that means

    def refusals(self, spec: VmSpec, node: NodeView) -> tuple[str, ...]:
        """Why hard group rules keep the VM off the node."""
        reasons: list[str] = []
        told: set[Group] = set()
        place = spec.placement
        for far in place.anti_affinity:
            if far.required:
                group, domain = group_of(spec, far), node.domain(far.topology)
                if not domain:
                    reasons.append(_no_label(far.topology))
                elif there := self._members[group][domain]:
                    told.add(group)
                    reasons.append(f"{far.topology} {domain} has {there} with {group.text} (anti-affinity)")
        for near in place.affinity:
            if near.required:
                group, domain = group_of(spec, near), node.domain(near.topology)
                members = self._members[group]
                first = not members and group.holds(spec)
                if not domain:
                    reasons.append(_no_label(near.topology))
                elif not members[domain] and not first:
                    reasons.append(f"{near.topology} {domain} has none with {group.text} (affinity)")
        for even in place.spread:
            if even.required:
                reasons += self._skewed(spec, even, node)
        if self._by_label:
            for group in self._of(spec):
                domain = node.domain(group.topology)
                if group in told:
                    continue  # both sides of one rule
                if domain and self._keepers[group][domain]:
                    reasons.append(f"{group.topology} {domain} has a VM with anti-affinity to {group.text}")
        return tuple(reasons)

    def _skewed(self, spec: VmSpec, term: SpreadTerm, node: NodeView) -> Iterator[str]:
        group, domain = group_of(spec, term), node.domain(term.topology)
        if not domain:
            yield _no_label(term.topology)
            return
        members = self._members[group]
        fewest = min((members[d] for d in self._domains(term.topology)), default=0)
        more = members[domain] + (1 if group.holds(spec) else 0)
        if more - fewest > term.max_skew:
            yield (
                f"{term.topology} {domain} has {members[domain]} with {group.text}, the emptiest {fewest}:"
                f" one more exceeds a skew of {term.max_skew}"
            )

    def _domains(self, topology: str) -> set[str]:
        """Domains of nodes that could take anything at all."""
        return {d for n in self._nodes.values() if n.ready and n.state == "ready" and (d := n.domain(topology))}

    def preference(self, spec: VmSpec, node: NodeView) -> float:
        """What soft group rules add to (or take from) the node's score, weights included."""
        sum_, place = 0.0, spec.placement
        for term in place.anti_affinity:
            if not term.required and self._members[group_of(spec, term)][node.domain(term.topology)]:
                sum_ -= term.weight
        for term in place.affinity:
            if not term.required and self._members[group_of(spec, term)][node.domain(term.topology)]:
                sum_ += term.weight
        for even in place.spread:
            if not even.required:
                members, domain = self._members[group_of(spec, even)], node.domain(even.topology)
                if domain and members:
                    sum_ -= even.weight * members[domain] / max(members.values())
        return sum_

    def group_versions(self, spec: VmSpec, node: NodeView) -> list[tuple[str, str]]:
        """(group, domain) of every hard rule that a claim of this VM by this node bears on, sorted.

        Safety: a VM that enters a domain changes its version, whether the rule is its own or another's, and
        compares the revision that its view had. A rule counts from when its VM is seen, not from when that is
        placed: the two may be claimed from one view. A spread looks at all domains, an affinity at where any
        member is, so these have one version for the whole group (domain ``all``). What one node alone decides
        (topology ``node``) needs none: an agent claims for its own node only, never from a view older than its
        own last write, and recalls a claim that was not answered
        (:func:`metastack.core.protocol.claims.recall`).
        """
        found: set[tuple[str, str]] = set()
        place = spec.placement
        own = [group_of(spec, t) for t in place.anti_affinity if t.required]
        others = [g for g in self._of(spec) if g in self._asked] if self._by_label else []
        for group in own + others:
            if group.topology != "node":
                found.add((group.ident, _part(node.domain(group.topology))))
        wide = [group_of(spec, t) for t in place.affinity if t.required]
        wide += [group_of(spec, t) for t in place.spread if t.required]
        found |= {(group.ident, "all") for group in wide}
        return sorted(found)


def _part(domain: str) -> str:
    """A label's value as part of a key."""
    return hashlib.blake2b(domain.encode(), digest_size=8).hexdigest()


def terms(spec: VmSpec) -> Iterator[GroupTerm | SpreadTerm]:
    """Every group term of a VM."""
    yield from spec.placement.affinity
    yield from spec.placement.anti_affinity
    yield from spec.placement.spread


def _no_label(topology: str) -> str:
    return f"node lacks the topology label {topology}"
