"""etcd's users and roles become what is asked, and say what changed."""

from __future__ import annotations

import asyncio

import pytest
from secured_etcd import Secured

from metastack.core.etcd_roles import EtcdRole, Right, cluster_roles, join_role, node_role
from metastack.core.model import VmId
from metastack.core.state.keys import Keys
from metastack.core.transaction import Put, Transaction
from metastack.pki.subject import SubjectKind, subject
from metastack.ports import Denied, Refused
from metastack.store.etcd.store import EtcdStore

pytestmark = pytest.mark.etcd
KEYS = Keys()
ROOT = {"root": ["root"]}
N1 = subject(SubjectKind.NODE, "n1")


async def test_applied_roles_read_back_as_they_are(secured: Secured) -> None:
    roles = [*cluster_roles(KEYS), node_role(KEYS, "n1"), join_role(KEYS, "x")]
    async with secured.users() as users:
        assert await users.apply(roles, {**ROOT, N1.user: N1.etcd_roles()})
        found = await users.read()
    assert found.roles == {role.name: frozenset(role.rights) for role in roles}
    assert found.users == {"root": frozenset({"root"}), "node.n1": frozenset({"node", "fencer", "node.n1"})}


async def test_the_second_apply_changes_nothing(secured: Secured) -> None:
    async with secured.users() as users:
        await users.apply(cluster_roles(KEYS), ROOT)
        assert await users.apply(cluster_roles(KEYS), ROOT) == []


async def test_two_that_apply_together_agree(secured: Secured) -> None:
    async with secured.users() as one, secured.users() as other:
        await asyncio.gather(*(who.apply(cluster_roles(KEYS), ROOT) for who in (one, other)))
        assert await one.apply(cluster_roles(KEYS), ROOT) == []


async def test_what_is_no_longer_asked_is_taken_away(secured: Secured) -> None:
    before = EtcdRole("r", (Right("read", "/a", "/b"), Right("write", "/c")))
    after = EtcdRole("r", (Right("write", "/a", "/b"),))
    async with secured.users() as users:
        await users.apply([before, EtcdRole("s", ())], {"u": ["r", "s"]})
        changed = await users.apply([after], {"u": ["r"]})
        found = await users.read()
    assert changed == ["role r may write /a to /b", "role r loses /c", "user u loses role s"]
    assert (found.roles["r"], found.users["u"]) == (frozenset(after.rights), frozenset({"r"}))


async def test_rights_are_switched_on_once(secured: Secured) -> None:
    async with secured.users() as users:
        await users.apply(users=ROOT)
        assert not await users.enabled()
        assert (await users.enable(), await users.enable()) == (["rights are on"], [])
        assert await users.enabled()


async def test_rights_stay_off_without_a_root(secured: Secured) -> None:
    async with secured.users() as users:
        with pytest.raises(Refused, match="root user does not exist"):
            await users.enable()
        assert not await users.enabled()


async def test_a_removed_user_is_gone_and_removed_again(secured: Secured) -> None:
    async with secured.users() as users:
        await users.apply([node_role(KEYS, "n1")], {"node.n1": ["node.n1"]})
        assert await users.remove(["node.n1"], ["node.n1"]) == ["user node.n1 deleted", "role node.n1 deleted"]
        assert await users.remove(["node.n1"], ["node.n1"]) == []
        assert await users.roles_of("node.n1") is None


async def test_a_node_makes_no_users(secured: Secured) -> None:
    async with secured.users() as users:
        roles = [*cluster_roles(KEYS), node_role(KEYS, "n1")]
        await users.apply(roles, {**ROOT, N1.user: N1.etcd_roles()})
        await users.enable()
    async with secured.users(N1) as users:
        assert await users.enabled()
        with pytest.raises(Denied, match="permission denied"):
            await users.apply(users={"node.evil": ["root"]})
        with pytest.raises(Denied):
            await users.apply([EtcdRole("node.n1", (Right("write", "/", "0"),))])


async def test_changes_of_users_disturb_no_request(secured: Secured) -> None:
    """etcd refuses what it judged by the users of before; 3.5.1 says so in a text of its own."""
    async with secured.users() as users:
        await users.apply([*cluster_roles(KEYS), node_role(KEYS, "n1")], {**ROOT, N1.user: N1.etcd_roles()})
        await users.enable()
    store, over = EtcdStore(secured.settings(N1)), asyncio.Event()

    async def work(number: int) -> int:
        key, done = KEYS.vm_status(VmId("default", f"vm{number}")), 0
        while not over.is_set():
            await store.commit(Transaction(name="test", guards=(), effects=(Put(key, b"{}"),)))
            await store.get(key)
            done += 2
        return done

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work(number)) for number in range(12)]
        async with secured.users() as users:
            for number in range(40):
                await users.apply([node_role(KEYS, f"x{number}")], {f"node.x{number}": ["node"]})
        over.set()
    assert sum(worker.result() for worker in workers) > 40
    await store.close()
