"""The doctor: each check on records that the test writes, on both stores where it reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from commands_rig import HELLO, Rig, request
from msgspec import Struct
from msgspec.structs import replace

from metastack import __version__
from metastack.commands import doctor
from metastack.commands.cluster.storage import init_storage
from metastack.commands.doctor import examine, grouped
from metastack.commands.doctor.facts import NOBODYS_ADDRESS, Finding, Severity, ask_storage, collect
from metastack.commands.vm.change import NewVm, create_vm
from metastack.core.model import (
    Backup,
    Claim,
    ClusterConfig,
    Credential,
    Fence,
    FenceReceipt,
    Fencing,
    NodeAlive,
    NodeFacts,
    Phase,
    VmId,
    Volume,
)
from metastack.core.state.codec import encode
from metastack.core.state.record_versions import LEVEL
from metastack.core.transaction import Delete, Put
from metastack.pki.facts import CertificateFacts
from metastack.ports import Denied, Unavailable
from metastack.storage.twin import MemoryPool, MemoryStorage
from metastack.store.etcd.rights import RightsProof
from metastack.store.etcd.store import MemberStatus

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
GOOD = MemberStatus(endpoint="http://e1:2379", version="3.5.28", member_id=1, leader_id=1)


class Said(Struct):
    """What the doctor found, made easy to ask."""

    findings: list[Finding]

    def of(self, check: str) -> list[tuple[str, str, str]]:
        return [(f.severity.value, f.object, f.meaning) for f in self.findings if f.check == check]


async def said(rig: Rig, **more: Any) -> Said:
    facts = await collect(rig.cluster, __version__, NOW)
    facts.members, facts.rights = (GOOD,), RightsProof(on=True)
    facts.storage_why = "not asked for"
    for name, value in more.items():
        setattr(facts, name, value)
    return Said(examine(facts))


async def node(rig: Rig, name: str, address: str = "", **more: Any) -> None:
    """A living node on Ceph."""
    lease = await rig.store.grant(60)
    known = NodeFacts(name=name, uuid=f"uuid-{name}", storage_addresses=(address,) if address else ())
    alive = NodeAlive(
        **{
            "name": name,
            "ready": True,
            "record_version": LEVEL,
            "storage": "ceph",
            "hypervisor": "kvm",
            "versions": {"metastack": __version__, "os": "debian 13"},
            **more,
        }
    )
    await rig.write(
        Put(rig.keys.node_facts(name), encode(known)),
        Put(rig.keys.node_alive(name), encode(alive), leased=True),
        lease=lease.id,
    )


async def facts_of(rig: Rig, name: str, *clients: str, user: str = "") -> None:
    known = NodeFacts(
        name=name,
        uuid=f"uuid-{name}",
        storage_addresses=("10.0.0.1",),
        storage_clients=clients,
        storage_guest_user=user,
    )
    await rig.write(Put(rig.keys.node_facts(name), encode(known)))


async def test_client_fencing_warns_and_missing_rights_are_errors(rig: Rig) -> None:
    for name in ("n1", "n2"):
        await node(rig, name, "10.0.0.1")
    (shared,) = (await said(rig)).of("storage_addresses")
    assert shared[:2] == ("error", "address 10.0.0.1")
    assert "shared by n1, n2" in shared[2]
    facts = await collect(rig.cluster, __version__, NOW)
    commands = [found.command for found in examine(facts) if found.check == "storage_addresses"]
    assert commands == ["metastack config set fencing=client"]
    await rig.write(Put(rig.keys.cluster(), encode(ClusterConfig(fencing=Fencing.CLIENT))))
    await facts_of(rig, "n1", "10.0.0.1:0/7", user="n1-guests")
    found = await said(rig)
    assert found.of("storage_addresses") == [
        (
            "error",
            "node n2",
            "declared no storage client: it cannot be fenced by client, so its VMs would not fail over",
        )
    ]
    weak = found.of("fencing")
    assert [(severity, object) for severity, object, _ in weak] == [
        ("warning", "config fencing"),
        ("warning", "node n2"),
    ]
    assert "has not opened its disk" in weak[0][2]
    assert "may still write to a disk that another node uses" in weak[1][2]
    await facts_of(rig, "n2", "10.0.0.1:0/8", user="n2-guests")
    found = await said(rig)
    assert found.of("storage_addresses") == []
    assert [object for _, object, _ in found.of("fencing")] == ["config fencing"]


async def test_fencing_by_single_clients_where_nobody_shares_says_so(rig: Rig) -> None:
    await node(rig, "n1", "10.0.0.1")
    await node(rig, "n2", "10.0.0.2")
    await rig.write(Put(rig.keys.cluster(), encode(ClusterConfig(fencing=Fencing.CLIENT))))
    assert "so address is better" in (await said(rig)).of("fencing")[0][2]


async def test_single_clients_that_are_blocked_no_more(rig: Rig) -> None:
    receipt = FenceReceipt(
        at="then", by="n2", method="ceph-blocklist-clients", clients=("10.0.0.1:0/7", "10.0.0.1:0/8")
    )
    await facts_of(rig, "n1", "10.0.0.1:0/7")
    await rig.write(Put(rig.keys.fence("n1"), encode(Fence(through=1 << 20, receipt=receipt))))
    facts = await collect(rig.cluster, __version__, NOW)
    await ask_storage(facts, MemoryStorage(MemoryPool(blocked={"10.0.0.1:0/8"})), "metastack")
    (found,) = [f for f in examine(facts) if f.check == "fence_blocked"]
    assert (found.severity, found.object) == (Severity.ERROR, "node n1")
    assert "does not block 10.0.0.1:0/7:" in found.meaning
    # It came back since, lifted the block and claimed: that it is gone again is no sign of a broken fence.
    claim = Claim(node="n1", session=1 << 21, uuid="u", volume_uuid="v", claim_id="c", epoch=9)
    await rig.write(Put(rig.keys.claim(VmId("default", "later")), encode(claim)))
    facts = await collect(rig.cluster, __version__, NOW)
    await ask_storage(facts, MemoryStorage(MemoryPool(blocked={"10.0.0.1:0/8"})), "metastack")
    assert [f for f in examine(facts) if f.check == "fence_blocked"] == []


async def test_a_healthy_cluster_has_no_findings(rig: Rig) -> None:
    pool = MemoryPool(fail=lambda what, _: Denied("no") if what == "unfence" else None)
    await init_storage(rig.cluster, request(), MemoryStorage(pool))
    for number in (1, 2, 3):
        await node(rig, f"n{number}", f"10.0.0.{number}")
    await rig.put(rig.keys.backup(), backup_of(NOW))
    facts = await collect(rig.cluster, __version__, NOW)
    await ask_storage(facts, MemoryStorage(pool), "metastack")
    facts.members, facts.rights = (GOOD,), RightsProof(on=True)
    assert examine(facts) == []


async def test_credentials_of_a_removed_node_are_a_warning(rig: Rig) -> None:
    given = Credential(node="n9", user="node.n9", removing=True)
    await rig.put(rig.keys.credential("n9"), given)
    ((severity, object, meaning),) = (await said(rig)).of("credentials")
    assert (severity, object) == ("warning", "node n9")
    assert "still work" in meaning
    await rig.put(rig.keys.credential("n9"), replace(given, removing=False))
    assert (await said(rig)).of("credentials") == []


def backup_of(at: datetime) -> Backup:
    return Backup(at=at.isoformat(), by="me", host="m1", file="/b/1.db", revision=7, size_bytes=1, sha256="x")


async def test_an_old_backup_is_a_warning(rig: Rig) -> None:
    (none,) = (await said(rig)).of("backup")
    assert none[0] == "info" and "no backup of etcd" in none[2]
    await rig.put(rig.keys.backup(), backup_of(NOW - timedelta(hours=50)))
    assert (await said(rig)).of("backup") == []
    await rig.put(rig.keys.backup(), backup_of(NOW - timedelta(hours=51)))
    (old,) = (await said(rig)).of("backup")
    assert old[0] == "warning" and "/b/1.db on m1" in old[2]
    await rig.write(Put(rig.keys.backup(), b"{"))
    found = await said(rig)
    assert found.of("backup") == [] and rig.keys.backup() in {name for _, name, _ in found.of("records")}


async def test_the_real_store_tells_of_its_members(rig: Rig) -> None:
    facts = await collect(rig.cluster, __version__, NOW)
    assert facts.min_ttl_s >= 1
    for member in facts.members:
        assert member.version.startswith("3.")
        assert member.leader_id


async def test_each_check_is_a_file_and_each_file_a_check() -> None:
    files = {path.stem for path in Path(doctor.__file__).parent.glob("*.py")} - {"__init__", "facts"}
    assert files == set(doctor.CHECKS)


@pytest.mark.parametrize(
    ("version", "faults"),
    [
        ("3.4.23", 3),
        ("3.4.31", 2),
        ("3.4.38", 1),
        ("3.4.42", 0),
        ("3.5.1", 3),
        ("3.5.22", 2),
        ("3.5.23", 1),
        ("3.5.28", 0),
        ("3.6.0", 1),
        ("3.6.9", 0),
        ("3.7.0-rc.1", 0),
        ("3.3.27", 1),
        ("none", 1),
    ],
)
async def test_etcd_versions(rig: Rig, version: str, faults: int) -> None:
    found = (await said(rig, members=(replace(GOOD, version=version),))).of("etcd_version")
    assert len(found) == faults, found
    if version == "3.3.27":
        assert found[0][0] == "error"


@pytest.mark.parametrize(
    ("rights", "severity", "part"),
    [
        (None, "warning", "unknown if it enforces rights: no answer"),
        (RightsProof(on=False), "warning", "enforces no rights"),
        (RightsProof(on=True, root=True), "info", "root has every right"),
        (RightsProof(on=True, passed=("nested", "nested failure")), "warning", "nested transactions bypass"),
        (RightsProof(on=True, passed=("failure",)), "error", "passed (failure)"),
    ],
)
async def test_rights_that_do_not_hold_are_found(rig: Rig, rights: Any, severity: str, part: str) -> None:
    ((level, object, meaning),) = (await said(rig, rights=rights, rights_why="no answer")).of("etcd_rights")
    assert (level, object) == (severity, "etcd") and part in meaning


async def test_a_one_machine_cluster_needs_no_rights(rig: Rig) -> None:
    members = (replace(GOOD, endpoint="unix:/run/e1/client.sock:0"),)
    assert not (await said(rig, members=members, rights=RightsProof(on=False))).of("etcd_rights")


@pytest.mark.parametrize(
    ("state", "left_s", "part"),
    [("valid", 9_000_000, ""), ("due", 864_000, "expires in 10 d"), ("expired", -5, "expired")],
)
async def test_a_certificate_that_ends_is_found(rig: Rig, state: str, left_s: int, part: str) -> None:
    certificate = CertificateFacts(
        user="operator.anna",
        role="admin",
        serial="1",
        fingerprint="f",
        hosts=[],
        not_before=NOW,
        not_after=NOW,
        left_s=left_s,
        state=state,
    )
    found = (await said(rig, certificate=certificate)).of("certificate")
    assert [(level, part in meaning) for level, _, meaning in found] == ([("warning", True)] if part else [])
    (unread,) = (await said(rig, certificate_why="no such file")).of("certificate")
    assert "no such file" in unread[2]


@pytest.mark.parametrize(
    ("versions", "severity", "part"),
    [
        ({"os": "debian 13", "libvirt": "11.3.0", "qemu": "10.0.2"}, "", ""),
        ({"os": "debian 12", "libvirt": "9.0.0", "qemu": "7.2.15"}, "", ""),
        ({"os": "ubuntu 24.04"}, "warning", "'ubuntu 24.04'"),
        ({"os": "debian 11"}, "warning", "'debian 11'"),
        ({"os": "debian 12", "libvirt": "8.0.0"}, "warning", "libvirt 8.0.0 is older than 9.0"),
        ({"os": "debian 12", "qemu": "7.1.50"}, "warning", "qemu 7.1.50 is older than 7.2"),
        ({}, "info", "does not report its operating system"),
    ],
)
async def test_platform_of_a_node(rig: Rig, versions: dict[str, str], severity: str, part: str) -> None:
    await node(rig, "n1", "10.0.0.1", versions={"metastack": __version__, **versions})
    found = (await said(rig)).of("platform")
    assert [(one[0], one[1]) for one in found] == ([(severity, "node n1")] if severity else [])
    assert all(part in meaning for _, _, meaning in found)


@pytest.mark.parametrize(("system", "known"), [("debian 13", True), ("debian", False), ("fedora 42", False)])
async def test_platform_under_this_program(rig: Rig, system: str, known: bool) -> None:
    found = (await said(rig, system=system)).of("platform")
    assert [severity for severity, *_ in found] == ([] if known else ["info"])


async def test_etcd_members(rig: Rig) -> None:
    bad = (
        GOOD,
        replace(GOOD, endpoint="http://e2:2379", error="refused"),
        replace(GOOD, endpoint="http://e3:2379", leader_id=0, version="3.5.29"),
        replace(GOOD, endpoint="http://e4:2379", alarms=("NOSPACE",), db_size_bytes=2 << 30),
    )
    found = (await said(rig, members=bad)).of("etcd_health")
    texts = [f"{severity} {object.rsplit('/', 1)[-1]} {meaning}" for severity, object, meaning in found]
    for wanted in (
        "warning e2:2379 does not answer: refused",
        "error e3:2379 sees no leader",
        "error e4:2379 has raised the alarm NOSPACE",
        "warning e4:2379 its database has 2048 MiB",
        "warning etcd its members run different versions",
    ):
        assert any(wanted in text for text in texts), (wanted, texts)


async def test_without_records_only_etcd_is_judged(rig: Rig) -> None:
    found = await said(rig, world_why="no quorum")
    assert [(f.severity, f.check) for f in found.findings] == [(Severity.ERROR, "etcd_health")]


async def test_lost_nodes_fences_and_the_brake(rig: Rig) -> None:
    await rig.image()
    session = await rig.node("n1")
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    await rig.claim("n1", session, phase=None)
    await rig.lose("n1")
    await node(
        rig, "n2", "10.0.0.2", fence_failures={"n1": "not allowed"}, brake="brake: 2 of 3 nodes vanished"
    )
    await node(rig, "n3", "10.0.0.3")
    found = await said(rig)
    assert found.findings[0].severity is Severity.ERROR
    assert any(
        "1 VM waits for it" in text and "n2 reports: not allowed" in text for *_, text in found.of("nodes_lost")
    )
    assert "brake: 2 of 3" in found.of("brake")[0][2]
    assert found.of("vms")[0][0] == "error"
    await rig.put(rig.keys.fence("n1"), Fence(intent=True, intent_by="n2", intent_at="2026-01-01T00:08:00Z"))
    (opened,) = (await said(rig)).of("fences_open")
    assert (opened[0], "open for 120 s" in opened[2]) == ("error", True)
    await node(rig, "n2", "10.0.0.2")
    await rig.put(rig.keys.fence("n1"), Fence(intent=True, intent_by="n2", intent_at="2026-01-01T00:09:50Z"))
    found = await said(rig)
    assert found.of("fences_open")[0][0] == "info"
    assert found.of("brake") == []


async def test_one_finding_about_many_is_told_once(rig: Rig) -> None:
    why = "/dev/kvm opens, but a probe guest under KVM ended with status -6: KVM internal error"
    for name in ("n1", "n2", "n3"):
        await node(rig, name, "10.0.0.1", hypervisor="qemu", hypervisor_why=why)
    await node(rig, "n4", "10.0.0.1", hypervisor="qemu", hypervisor_why="/dev/kvm: No such file or directory")
    found = (await said(rig)).findings
    assert sum(one.check == "kvm" for one in found) == 4, "a program gets each"
    told = [(objects, one.meaning) for objects, one in grouped(found) if one.check == "kvm"]
    assert [objects for objects, _ in told] == ["nodes n1, n2, n3", "node n4"]
    assert sum(why in meaning for _, meaning in told) == 1
    many = [replace(found[0], object=f"node m{n}", command=f"metastack node show m{n}") for n in range(9)]
    [(objects, first)] = grouped(many)
    assert (objects, first.object) == ("nodes m0, m1, m2, m3, m4 and 4 more", "node m0")


async def test_doctor_sees_a_forgotten_fence_and_wide_rights(rig: Rig) -> None:
    await node(rig, "n1", "10.0.0.1")
    await node(rig, "n2", "10.0.0.2")
    await rig.write(Delete(rig.keys.node_alive("n1")))
    receipt = FenceReceipt(at="t", by="n2", method="ceph-blocklist", addresses=("10.0.0.1",))
    await rig.put(rig.keys.fence("n1"), Fence(through=1 << 20, receipt=receipt))
    facts = await collect(rig.cluster, __version__, NOW)
    pool = MemoryPool(blocked={"10.0.0.2"})
    await ask_storage(facts, MemoryStorage(pool), "wide")
    assert pool.blocked == {"10.0.0.2"}
    assert NOBODYS_ADDRESS not in pool.blocked
    found = Said(examine(facts))
    assert [(s, o) for s, o, _ in found.of("fence_blocked")] == [("error", "node n1"), ("warning", "node n2")]
    assert found.of("storage_rights")[0][:2] == ("warning", "user wide")
    pool.blocked = {"10.0.0.1"}
    await ask_storage(facts, MemoryStorage(pool), "wide")
    assert Said(examine(facts)).of("fence_blocked") == []
    pool.fail = lambda what, _: Unavailable("down") if what == "blocked" else None
    with pytest.raises(Unavailable):
        await ask_storage(facts, MemoryStorage(pool), "wide")


async def test_addresses(rig: Rig) -> None:
    await node(rig, "n1", "10.0.0.1")
    await node(rig, "n2", "10.0.0.1")
    await node(rig, "n3")
    await node(rig, "n4", storage="file")
    found = (await said(rig)).of("storage_addresses")
    assert [(s, o) for s, o, _ in found] == [("error", "node n3"), ("error", "address 10.0.0.1")]
    assert [severity for severity, *_ in (await said(rig)).of("fencing")] == ["info"]


async def test_nodes_that_emulate_differ_or_complain(rig: Rig) -> None:
    await node(rig, "n1", "10.0.0.1", hypervisor="qemu", hypervisor_why="no /dev/kvm")
    await node(rig, "n2", "10.0.0.2", versions={"metastack": "0.0.1"}, warnings=("the disk is slow",))
    await node(rig, "n3", "10.0.0.3", versions={}, ready=False, message="shut out")
    found = await said(rig)
    assert "no /dev/kvm" in found.of("kvm")[0][2]
    assert [severity for severity, *_ in found.of("versions")] == ["warning", "info"]
    assert found.of("node_warnings") == [("warning", "node n2", "the disk is slow")]
    assert "shut out" in found.of("nodes_lost")[0][2]


async def test_vms_records_leases_and_leftovers(rig: Rig) -> None:
    await rig.image()
    await node(rig, "n1", "10.0.0.1")
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    waiting = await said(rig, min_ttl_s=9)
    assert waiting.of("pending")[0][:2] == ("warning", "vm default/hello")
    assert "no lease shorter than 9 s" in waiting.of("lease_ttl")[0][2]
    await rig.claim("n1", 1)
    await rig.status("n1", 1, Phase.FAILED, message="no such bridge")
    assert (await said(rig)).of("vms") == [("error", "vm default/hello", "no such bridge")]
    gone = Volume(uuid="u-1", project="default", vm="x", vm_uuid="y", size_bytes=1, image_uuid="i")
    await rig.put(rig.keys.volume("default", "u-1"), gone)
    assert "1 disks of deleted VMs" in (await said(rig)).of("leftovers")[0][2]
    await rig.write(Put(rig.keys.vm_spec(HELLO), b'{"v": 77}'))
    found = (await said(rig)).of("records")
    assert (found[0][0], found[0][1]) == ("error", rig.keys.vm_spec(HELLO))
    assert "newer" in found[0][2]
    for broken in (b'{"v": 77}', b'{"syslog": "there"}'):
        await rig.write(Put(rig.keys.cluster(), broken))
        found = (await said(rig)).of("records")
        assert found[0][:2] == ("error", "config")
        assert "fences no node" in found[0][2]
