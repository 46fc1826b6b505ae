"""A rogue node with its real credentials: what etcd refuses it, and what no role prevents."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from aetcd import rpc
from management_host import Host

from metastack.core.etcd_roles import EtcdRole, join_role, node_role
from metastack.core.model import VmId
from metastack.core.state.keys import Keys
from metastack.core.transaction import Delete, Lease, Put, Transaction
from metastack.pki.subject import SubjectKind, subject
from metastack.ports import Denied
from metastack.store.etcd.channel import METADATA, Link
from metastack.store.etcd.store import EtcdStore

pytestmark = pytest.mark.etcd
KEYS = Keys()
VM = VmId("default", "web")
N1, N2 = subject(SubjectKind.NODE, "n1"), subject(SubjectKind.NODE, "n2")


class Rogue:
    """Node n1, taken over; n2 is its victim."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.store = EtcdStore(host.secured.settings(N1), total_timeout_s=2.0)
        self.victim = EtcdStore(host.secured.settings(N2), total_timeout_s=2.0)

    async def may(self, *effects: Put | Delete, lease: int = 0) -> bool:
        try:
            await self.store.commit(Transaction(name="rogue", guards=(), effects=effects, lease=lease))
        except Denied:
            return False
        return True

    async def writes(self, key: str) -> bool:
        """Deletes tell the same as puts, which is tried with both."""
        put, deleted = await self.may(Put(key, b"{}")), await self.may(Delete(key))
        assert put == deleted
        return put


@pytest.fixture
async def rogue(cluster: Host) -> AsyncIterator[Rogue]:
    async with cluster.secured.users() as users:
        await users.apply([node_role(KEYS, "n1"), node_role(KEYS, "n2"), join_role(KEYS, "other")])
    await cluster.secured.admit(N1, N2)
    made = Rogue(cluster)
    yield made
    await made.store.close()
    await made.victim.close()


async def fence_no_living_node(host: Host) -> None:
    assert (await host.asks("lab", "config", "set", "storage_lost_s=0")).status == 0
    answer = await host.run("cluster", "apply-rights", *host.ca, "--context", "lab")
    assert answer.status == 0, answer


async def test_it_writes_what_is_its_own(rogue: Rogue) -> None:
    for key in (KEYS.node_alive("n1"), KEYS.node_facts("n1"), KEYS.refusal("n1"), KEYS.removal("n1")):
        assert await rogue.writes(key), key


async def test_it_changes_no_desired_state(rogue: Rogue) -> None:
    for key in (
        *(KEYS.vm_spec(VM), KEYS.node_spec("n1"), KEYS.cluster(), KEYS.generation(), KEYS.storage()),
        *(KEYS.project("x"), KEYS.history(VM, 1), KEYS.leader(), KEYS.hint(VM), KEYS.admission()),
        *(KEYS.node_facts("n2"), KEYS.refusal("n2"), KEYS.removal("n2"), KEYS.forbidden(), "/elsewhere"),
    ):
        assert not await rogue.writes(key), key


async def test_it_takes_no_part_in_another_join(rogue: Rogue) -> None:
    assert not await rogue.writes(KEYS.join_prefix("other") + "request")


async def test_it_makes_no_users_and_no_rights(rogue: Rogue) -> None:
    async with rogue.host.secured.users(N1) as users:
        with pytest.raises(Denied, match="may not: etcdserver"):
            await users.apply(users={N1.user: ["root"]})
        with pytest.raises(Denied):
            await users.apply([EtcdRole("node.n1", node_role(KEYS, "n2").rights)])
        with pytest.raises(Denied):
            await users.remove(["node.n2"])


async def test_another_alive_key_is_refused_without_living_fences(rogue: Rogue) -> None:
    await fence_no_living_node(rogue.host)
    assert not await rogue.writes(KEYS.node_alive("n2"))
    assert await rogue.writes(KEYS.node_alive("n1"))


async def test_another_alive_key_is_a_limit_with_living_fences(rogue: Rogue) -> None:
    assert await rogue.writes(KEYS.node_alive("n2"))


async def test_shared_kinds_are_a_limit(rogue: Rogue) -> None:
    """A prefix cannot say in whose name: claims, fences and statuses of others are in reach."""
    for key in (KEYS.claim(VM), KEYS.fence("n2"), KEYS.halt(VM), KEYS.vm_status(VM), KEYS.image("i")):
        assert await rogue.writes(key), key


async def test_leases_of_others_are_a_limit(rogue: Rogue) -> None:
    """etcd before 3.4.42, 3.5.28, 3.6.9 needs no right to prolong a lease; to end one it needs its keys."""
    lease = await rogue.victim.grant(30)
    put = Put(KEYS.node_alive("n2"), b"{}", leased=True)
    change = Transaction(name="alive", guards=(), effects=(put,), lease=lease.id)
    await rogue.victim.commit(change)
    await fence_no_living_node(rogue.host)
    assert (await rogue.store.renew(Lease(id=lease.id, ttl_s=30, deadline_s=0.0))).ttl_s == 30
    with pytest.raises(Denied):
        await rogue.store.revoke(lease)
    assert await rogue.victim.get(KEYS.node_alive("n2")) is not None


async def test_nested_transactions_are_found_by_doctor(rogue: Rogue) -> None:
    """These releases of etcd let them pass: seen by a write, and told by the doctor."""
    inner = rpc.TxnRequest(
        success=[rpc.RequestOp(request_put=rpc.PutRequest(key=KEYS.vm_spec(VM).encode(), value=b"evil"))]
    )
    outer = rpc.TxnRequest(success=[rpc.RequestOp(request_txn=inner)])

    async def send(link: Link, timeout_s: float) -> object:
        return await link.kv.Txn(outer, timeout=timeout_s, metadata=METADATA)

    try:
        await rogue.store._channels.ask("evil", send, twice=False)
        passed = True
    except Denied:
        passed = False
    found = {one["check"]: one for one in await findings(rogue.host)}
    assert passed is ("etcd_rights" in found)
    if passed:
        assert (await rogue.store.get(KEYS.vm_spec(VM))) is not None
        assert "nested transactions bypass its rights" in found["etcd_rights"]["meaning"]
        assert found["etcd_rights"]["severity"] == "warning"


async def findings(host: Host) -> list[dict[str, str]]:
    answer = await host.asks("lab", "doctor", "--no-storage")
    return [dict(one) for one in json.loads(answer.out)]


async def test_the_doctor_finds_rights_off_and_root(host: Host) -> None:
    secured = host.secured
    await host.context("lab", secured.settings(secured.root))
    off = {one["check"]: one["meaning"] for one in await findings(host)}
    assert "enforces no rights" in off["etcd_rights"]
    await host.init()
    await host.context("lab", secured.settings(secured.root))
    root = {one["check"]: one["meaning"] for one in await findings(host)}
    assert "root has every right" in root["etcd_rights"]
