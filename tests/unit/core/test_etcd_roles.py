"""Roles of etcd: what each identity may read and write."""

from __future__ import annotations

from pathlib import Path

import pytest

from metastack.core import etcd_roles
from metastack.core.etcd_roles import (
    NODE_ROLES,
    OPERATOR_ROLES,
    SERVICE_ROLES,
    WRITERS,
    Right,
    Rights,
    Writer,
    cluster_roles,
    join_role,
    node_rights,
    node_role,
)
from metastack.core.model import Hint, Leader, VmId
from metastack.core.protocol.leader_terms import LeaderTerm, advise, stand
from metastack.core.state.keys import Keys, Kind
from metastack.core.transaction import Delete, Guard, Put, Transaction
from metastack.lab.sim.runs.scenario import scenario

KEYS = Keys()
ROLES = {role.name: role for role in cluster_roles(KEYS)}
NODE = node_rights(KEYS, "n1")
SCENARIOS = Path(__file__).parents[2] / "scenarios"


def rights(*names: str) -> Rights:
    return Rights(*(ROLES[name] for name in names))


def writes(holder: Rights, key: str, end: str = "") -> bool:
    effect = Delete(key, end) if end else Put(key, b"")
    return not holder.outside(Transaction(name="x", guards=(), effects=(effect,)))


def reads(holder: Rights, key: str) -> bool:
    return not holder.outside(Transaction(name="x", guards=(Guard(key, "mod", 0),), effects=()))


def test_every_kind_has_its_writers() -> None:
    assert set(WRITERS) == set(Kind)
    assert all(WRITERS.values())


def test_every_role_that_a_user_gets_exists() -> None:
    named = {*NODE_ROLES, *(role for had in (OPERATOR_ROLES | SERVICE_ROLES).values() for role in had)}
    assert named - {"root"} <= set(ROLES)
    assert set(ROLES) <= named


def test_a_node_writes_its_own_keys() -> None:
    for key in (KEYS.node_facts, KEYS.refusal, KEYS.removal):
        assert writes(NODE, key("n1"))
        assert not writes(NODE, key("n2"))
        assert not writes(NODE, key("n11"))


def test_without_the_fencer_role_another_alive_key_is_closed() -> None:
    own = Rights(ROLES["node"], node_role(KEYS, "n1"))
    assert writes(own, KEYS.node_alive("n1"))
    assert not writes(own, KEYS.node_alive("n2"))
    assert writes(NODE, KEYS.node_alive("n2"))  # a fence for silent storage deletes it


@pytest.mark.parametrize(
    "key",
    [
        KEYS.cluster(),
        KEYS.generation(),
        KEYS.storage(),
        KEYS.project("p"),
        KEYS.vm_spec(VmId("p", "v")),
        KEYS.node_spec("n1"),
        KEYS.history(VmId("p", "v"), 1),
        KEYS.hint(VmId("p", "v")),
        KEYS.leader(),
        "/other/claims/p/v",
        "/metastack",
    ],
)
def test_a_node_cannot_change_what_people_want(key: str) -> None:
    assert not writes(NODE, key)


def test_a_node_reads_everything_under_the_root() -> None:
    assert all(reads(NODE, prefix) for prefix in KEYS.prefixes(Kind))
    assert not reads(NODE, "/other/claims/p/v")


def test_a_viewer_writes_nothing() -> None:
    viewer = rights(*OPERATOR_ROLES["viewer"])
    for kind, prefix in zip(Kind, KEYS.prefixes(Kind), strict=True):
        assert viewer.lists(prefix) is (kind not in (Kind.TICKET, Kind.SECRET))
        assert not writes(viewer, prefix)


def test_an_operator_opens_consoles_and_a_viewer_does_not() -> None:
    assert not rights("viewer").lists(KEYS.prefix(Kind.TICKET))
    operator = rights(*OPERATOR_ROLES["operator"])
    assert operator.lists(KEYS.prefix(Kind.TICKET))
    assert writes(operator, KEYS.ticket("x"))
    assert writes(NODE, KEYS.ticket("x"))


def test_nodes_and_admins_alone_read_secrets() -> None:
    key, prefix = KEYS.secret("x"), KEYS.prefix(Kind.SECRET)
    for holder in (NODE, rights(*OPERATOR_ROLES["admin"])):
        assert holder.lists(prefix) and holder.reads(key)
    for names in (OPERATOR_ROLES["viewer"], OPERATOR_ROLES["operator"], SERVICE_ROLES["scheduler"]):
        assert not rights(*names).lists(prefix)
        assert not rights(*names).lists(KEYS.prefix())
        assert not rights(*names).reads(key)
        assert not writes(rights(*names), key)
    assert not writes(NODE, key)


def test_a_scheduler_writes_hints_and_its_own_key() -> None:
    scheduler, vm = rights(*SERVICE_ROLES["scheduler"]), VmId("p", "v")
    hints = advise(KEYS, LeaderTerm(revision=1, lease=1), {vm: Hint(uuid="u", node="n1")}, [vm])
    for change in (stand(KEYS, Leader(name="s1"), 1), hints):
        assert scheduler.outside(change) == []
        assert NODE.outside(change)
    assert scheduler.lists(KEYS.prefix(), KEYS.prefix(Kind.SECRET))  # its picture watches that far
    assert not writes(scheduler, KEYS.claim(vm))


def test_an_operator_cannot_touch_fences_claims_and_settings() -> None:
    operator = rights(*OPERATOR_ROLES["operator"])
    assert writes(operator, KEYS.vm_spec(VmId("p", "v")))
    for key in (KEYS.cluster(), KEYS.fence("n1"), KEYS.node_alive("n1"), KEYS.claim(VmId("p", "v"))):
        assert not writes(operator, key)


def test_an_admin_cannot_write_a_claim() -> None:
    admin = rights(*OPERATOR_ROLES["admin"])
    assert writes(admin, KEYS.fence("n1"))
    assert writes(admin, KEYS.cluster())
    assert not writes(admin, KEYS.claim(VmId("p", "v")))


def test_a_token_bearer_reaches_its_own_exchange() -> None:
    bearer = Rights(join_role(KEYS, "a1"))
    assert writes(bearer, KEYS.join_prefix("a1") + "request")
    assert reads(bearer, KEYS.join_prefix("a1") + "answer")
    assert not writes(bearer, KEYS.join_prefix("a11") + "request")
    assert not any(reads(bearer, prefix) or writes(bearer, prefix) for prefix in KEYS.prefixes(Kind))


def test_no_kind_lies_where_tokens_talk() -> None:
    assert KEYS.parse(KEYS.join_prefix("a1") + "request") is None


@pytest.mark.parametrize(
    ("key", "end", "within"),
    [("/b", "", True), ("/b", "/d", True), ("/a", "", False), ("/b", "/d0", False), ("/d", "", False)],
)
def test_ranges_that_touch_are_one(key: str, end: str, within: bool) -> None:
    role = etcd_roles.EtcdRole("r", (Right("write", "/c", "/d"), Right("write", "/b", "/c")))
    assert writes(Rights(role), key, end) is within


def test_the_table_is_as_tight_as_its_writers_say() -> None:
    for kind, who in WRITERS.items():
        (prefix,) = KEYS.prefixes([kind])
        assert writes(rights("node"), prefix) is (Writer.NODE in who), kind
        assert writes(rights("admin"), prefix) is (Writer.ADMIN in who), kind


def test_the_simulator_sees_an_agent_outside_its_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WRITERS, Kind.HALT, frozenset({Writer.ADMIN}))
    found = scenario(SCENARIOS / "guest-off-then-node-dies").violations
    assert any("rights: " in line and "write /metastack/halts/" in line for line in found), found


def test_no_role_writes_the_forbidden_key() -> None:
    rights = Rights(*ROLES.values(), node_role(KEYS, "n1"), join_role(KEYS, "x"))
    change = Transaction(name="probe", guards=(), effects=(Delete(KEYS.forbidden()),))
    assert rights.outside(change) == [f"write {KEYS.forbidden()}"]


def test_nodes_that_fence_no_living_node_write_no_alive_key() -> None:
    fencer = next(role for role in cluster_roles(KEYS, fences_living=False) if role.name == "fencer")
    assert fencer.rights == ()
