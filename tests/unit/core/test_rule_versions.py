"""Notices of group rules: which a spec gives, and which a claim heeds."""

from __future__ import annotations

import pytest
from hypothesis import given as cases
from hypothesis import strategies as st
from msgspec.structs import replace
from placement_rig import spec

from metastack.core.model import GroupTerm, Placement, Power, VmSpec
from metastack.core.protocol.rule_versions import (
    RULE_VERSION,
    VERSIONS_PER_PROJECT,
    given,
    heeded,
    of_labels,
    of_rules,
)
from metastack.core.state.keys import Keys

KEYS = Keys()
LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("12"), max_size=3)


def apart(*terms: GroupTerm, **more: object) -> VmSpec:
    return spec("vm", placement=Placement(anti_affinity=terms), **more)


def zone(required: bool = True, topology: str = "zone", **labels: str) -> GroupTerm:
    return GroupTerm(labels=labels, topology=topology, required=required)


@cases(LABELS, LABELS)
def test_a_vm_that_a_rule_excludes_compares_its_notice(rule: dict[str, str], labels: dict[str, str]) -> None:
    kept_away = bool(rule) and rule.items() <= labels.items()
    rule_versions = of_rules(apart(zone(**rule)))
    assert len(rule_versions) == bool(rule)
    if kept_away:
        assert rule_versions <= of_labels(spec("other", labels=labels))


def test_what_no_claim_of_another_node_can_break_has_none() -> None:
    assert of_rules(apart(zone(topology="node", app="db"), zone(required=False, app="db"))) == set()
    assert of_rules(spec("vm", labels={"app": "db"})) == set()


@pytest.mark.parametrize(
    ("before", "after", "puts"),
    [
        (None, {}, 1),
        (None, {"power": Power.OFF}, 0),
        ({}, {"memory_mib": 64}, 0),
        ({}, {"power": Power.OFF}, 0),
        ({"power": Power.OFF}, {}, 1),
        ({}, {"run": 7}, 1),  # its guest may have switched itself off: nobody has to know its rule then
        ({}, {"uuid": "00000000-0000-4000-8000-00000000000f"}, 1),
        ({"placement": Placement()}, {}, 1),
    ],
)
def test_notice_is_given_when_a_rule_begins_to_count(
    before: dict[str, object] | None, after: dict[str, object], puts: int
) -> None:
    rule = apart(zone(app="db"), zone(topology="rack", app="db"))
    found = given(KEYS, None if before is None else replace(rule, **before), replace(rule, **after))
    assert len(found) == puts
    assert all(put.key.endswith(f"/{RULE_VERSION}") and not put.leased for put in found)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (zone(topology="rack", app="db"), zone(app="db")),
        (zone(app="db", tier="1"), zone(app="db")),
        (zone(required=False, app="db"), zone(app="db")),
    ],
)
def test_notice_is_given_of_a_rule_that_became_another(before: GroupTerm, after: GroupTerm) -> None:
    assert {put.key for put in given(KEYS, apart(before), apart(after))} == {
        KEYS.group("default", group, RULE_VERSION) for group in of_rules(apart(after))
    }
    assert given(KEYS, apart(after), apart(after)) == ()


def test_new_labels_fail_claims_of_the_rule() -> None:
    """All of them: the rule may be told by one that the VM had already."""
    had, has = spec("vm", labels={"app": "db"}), spec("vm", labels={"app": "db", "tier": "1"})
    found = {put.key for put in given(KEYS, had, has)}
    assert found == {KEYS.group("default", group, RULE_VERSION) for group in of_labels(has)}
    assert found >= {
        KEYS.group("default", group, RULE_VERSION) for group in heeded(apart(zone(app="db", tier="1")))
    }
    assert given(KEYS, has, had) == given(KEYS, has, has) == given(KEYS, None, has) == ()


def test_a_claim_heeds_few_however_many_labels_its_vm_has() -> None:
    many = spec("vm", labels={f"k{n}": "v" for n in range(64)})
    assert len(heeded(many)) <= VERSIONS_PER_PROJECT
