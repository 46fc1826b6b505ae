"""Group rules: affinity, anti-affinity and spread, what they mean for a place, and their versions."""

from __future__ import annotations

from placement_rig import KEYS, Cluster, reasons, spec, zoned

from metastack.core.model import GroupTerm, Ha, Placement, Power, SpreadTerm, VmId


def test_zone_anti_affinity_places_one_per_zone() -> None:
    found = zoned()
    far = Placement(anti_affinity=(GroupTerm(labels={"app": "db"}, topology="zone"),))
    for n in range(4):
        found.want(f"db{n}", labels={"app": "db"}, placement=far)
    placed = found.claim_all()
    assert len(placed) == 3
    assert len({found.engine.nodes[node].labels["zone"] for node in placed.values()}) == 3
    left = next(iter(found.engine.waiting)).name
    assert set(reasons(found, left).values()) == {
        f"zone {z} has 1 with app=db (anti-affinity)" for z in "abc"
    }, "both sides of the one rule say no: one reason"
    # One goes, the other comes.
    found.delete(KEYS.vm_spec(VmId("default", next(iter(placed)))))
    found.delete(KEYS.claim(VmId("default", next(iter(placed)))))
    assert found.heads()[left]


def test_an_anti_affinity_keeps_unaware_vms_away() -> None:
    found = zoned("ab")
    found.want("lonely", placement=Placement(anti_affinity=(GroupTerm(labels={"app": "noisy"}),)))
    where = found.claim_all()["lonely"]
    found.want("loud", labels={"app": "noisy"})
    assert found.heads()["loud"] == ({"n0": "n1", "n1": "n0"}[where],)
    assert "has a VM with anti-affinity to app=noisy" in reasons(found, "loud")[where]


def test_affinity_lets_the_first_go_anywhere_and_the_rest_follow() -> None:
    found = zoned()
    near = Placement(affinity=(GroupTerm(labels={"app": "web"}, topology="zone"),))
    for n in range(3):
        found.want(f"web{n}", labels={"app": "web"}, placement=near)
    placed = found.claim_all()
    assert len(placed) == 3
    assert len({found.engine.nodes[node].labels["zone"] for node in placed.values()}) == 1
    found.want("other", placement=Placement(affinity=(GroupTerm(labels={"app": "none"}, topology="zone"),)))
    assert found.heads()["other"] == ()
    assert "zone a has none with app=none (affinity)" in reasons(found, "other")["n0"]


def test_spread_keeps_the_skew() -> None:
    found = zoned("aaab")
    even = Placement(spread=(SpreadTerm(labels={"app": "w"}, topology="zone"),))
    for n in range(4):
        found.want(f"w{n}", labels={"app": "w"}, placement=even)
    placed = found.claim_all()
    zones = [found.engine.nodes[node].labels["zone"] for node in placed.values()]
    assert sorted(zones) == ["a", "a", "b", "b"]


def test_preferences_order_but_never_refuse() -> None:
    found = zoned("ab")
    soft = Placement(anti_affinity=(GroupTerm(labels={"app": "x"}, required=False, weight=5.0),))
    for n in range(3):
        found.want(f"x{n}", labels={"app": "x"}, placement=soft)
    placed = found.claim_all()
    assert sorted([placed["x0"], placed["x1"]]) == ["n0", "n1"] and placed["x2"]


def test_tokens_are_for_hard_rules_beyond_one_node() -> None:
    found = zoned("ab")
    far = GroupTerm(labels={"app": "db"}, topology="zone")
    own = spec("a", labels={"app": "db"}, placement=Placement(anti_affinity=(far,)))
    found.want("a", labels={"app": "db"}, placement=Placement(anti_affinity=(far,)))
    assert len(found.engine.group_versions(own, "n0")) == 1
    assert found.engine.group_versions(own, "n0") != found.engine.group_versions(own, "n1")
    stranger = spec("s", labels={"app": "db"})
    assert found.engine.group_versions(stranger, "n0") == found.engine.group_versions(own, "n0")
    near = spec("h", labels={"app": "db"}, placement=Placement(anti_affinity=(GroupTerm(labels={"app": "q"}),)))
    found.want("h", placement=near.placement)
    assert found.engine.group_versions(spec("q", labels={"app": "q"}), "n0") == []
    even = spec("e", labels={"app": "z"}, placement=Placement(spread=(SpreadTerm(labels={"app": "z"}),)))
    found.want("e", labels={"app": "z"}, placement=even.placement)
    assert [domain for _, domain in found.engine.group_versions(even, "n0")] == ["all"]


def test_a_member_bears_a_pending_rules_token() -> None:
    found = Cluster()
    for name in ("n0", "n1"):
        found.node(name)
        found.wish(name, labels={"zone": "a"})
    apart = Placement(anti_affinity=(GroupTerm(labels={"app": "db"}, topology="zone"),))
    rule, member = spec("r", labels={"app": "db"}, placement=apart, cpus=999), spec("m", labels={"app": "db"})
    for vm in (rule, member):
        found.put(KEYS.vm_spec(VmId("default", vm.name)), vm)
    borne = found.engine.group_versions(rule, "n0")
    assert borne and found.engine.group_versions(member, "n1") == borne
    # And no longer than anybody has the rule.
    found.put(KEYS.vm_spec(VmId("default", "r2")), spec("r2", placement=apart, cpus=999))
    found.want("r", labels={"app": "db"}, cpus=999)
    assert found.engine.group_versions(member, "n1") == borne
    found.delete(KEYS.vm_spec(VmId("default", "r2")))
    assert found.engine.group_versions(member, "n1") == []
    found.want("r3", placement=apart)
    found.claim("r3", "n0")
    assert found.engine.group_versions(member, "n1") == borne
    found.put(KEYS.vm_spec(VmId("default", "r3")), spec("r3", placement=apart, power=Power.OFF))
    assert found.engine.group_versions(member, "n1") == borne, "it is off, but still there"
    found.delete(KEYS.claim(VmId("default", "r3")))
    assert found.engine.group_versions(member, "n1") == []


def test_capacity_released_for_a_lost_neighbour_is_reused() -> None:
    """x was to be near db, which a more important one leaves no place: y has room where x would have been."""
    found = Cluster()
    found.node("n0")
    found.node("n1")
    found.want("full", memory_mib=3596, placement=Placement(node="n1"))
    found.claim("full", "n1")
    near = Placement(affinity=(GroupTerm(labels={"app": "db"}),))
    found.want("db", memory_mib=3000, labels={"app": "db"})
    found.want("x", memory_mib=1000, placement=near, ha=Ha(priority=10))
    found.want("y", memory_mib=1000)
    assert found.heads() == {"db": ("n0",), "x": ("n0",), "y": ()}
    found.want("urgent", memory_mib=3000, ha=Ha(priority=5))
    assert found.heads() == {"db": (), "x": (), "y": ("n0",), "urgent": ("n0",)}
