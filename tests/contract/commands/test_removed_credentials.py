"""What a removed node was given is taken back, whoever dies or joins meanwhile; on both stores."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands_rig import request
from joining_house import Dies, House, now, replace_desk
from msgspec.structs import replace

from metastack.commands.joining.answering import finish, tidy
from metastack.commands.node.remove import remove_node, wait_revoked
from metastack.commands.problem import Problem
from metastack.commands.request import Cluster
from metastack.core.transaction import Delete, Outcome, Transaction
from metastack.pki.authority import new_key, serial_text
from metastack.pki.files import load_certificate
from metastack.pki.folder import CaFolder
from metastack.pki.refusal import Why
from metastack.ports.wrapped_store import WrappedStore


async def test_a_removed_node_loses_everything(house: House) -> None:
    joined = await house.join(await house.token(), new_key())
    async with house.serving():
        removed = await remove_node(house.rig.cluster, request("sold"), "n1")
        assert removed.credentials == "pending"
        removed = await wait_revoked(house.rig.cluster, "n1", removed)
    assert removed.credentials == "revoked"
    assert "node.n1" not in house.accounts.users
    assert "node.n1" not in house.accounts.roles
    assert house.users.users == {}
    serial = serial_text(load_certificate(joined.certificate, "n1").serial_number)
    assert [(one.serial, one.reason) for one in house.ca.revoked()] == [(serial, "sold")]
    assert await house.cluster.store.get(house.keys.node_spec("n1")) is None


class Registers(WrappedStore):
    """Just before the removal the agent of the new node registers; ``without``: the guards that see it."""

    def __init__(self, house: House, without: tuple[str, ...] = ()) -> None:
        super().__init__(house.cluster.store)
        self._house, self._without, self._asked = house, without, False

    async def commit(self, change: Transaction) -> Outcome:
        if change.name == "node.remove" and not self._asked:
            self._asked = True
            await self._house.rig.node("n1")
            kept = tuple(guard for guard in change.guards if guard.key not in self._without)
            change = replace(change, guards=kept)
        return await self._inner.commit(change)


async def test_a_new_node_that_registers_meanwhile_stays(house: House) -> None:
    await house.join(await house.token(), new_key())
    with pytest.raises(Problem, match="is alive: only a lost node is removed"):
        await remove_node(Cluster(Registers(house), house.keys), request("sold"), "n1")
    assert not (await house.credential()).removing
    # Without its guards the living node is forgotten, and its credentials are taken back.
    await house.rig.write(Delete(house.keys.node_alive("n1")), Delete(house.keys.node_facts("n1")))
    blind = Registers(house, (house.keys.node_alive("n1"), house.keys.node_facts("n1")))
    await remove_node(Cluster(blind, house.keys), request("sold"), "n1")
    assert (await house.credential()).removing


async def test_a_join_beside_a_removal_is_seen(house: House) -> None:
    """The node joins again just before its removal is committed: what it was given now is taken back, too."""
    await house.join(await house.token(), new_key())
    token, key = await house.token(), new_key()

    class Joins(WrappedStore):
        asked = False

        async def commit(self, change: Transaction) -> Outcome:
            if change.name == "node.remove" and not self.asked:
                self.asked = True
                await house.join(token, key)
            return await self._inner.commit(change)

    await remove_node(Cluster(Joins(house.cluster.store), house.keys), request("sold"), "n1")
    assert (await house.credential()).token == token.id
    await finish(house.desk, "n1")
    assert house.users.users == {}
    assert len(house.ca.revoked()) == 2


async def test_a_node_with_claims_is_not_removed(house: House) -> None:
    """It had a session: then it is fenced first, as ever, and its credentials stay meanwhile."""
    await house.join(await house.token(), new_key())
    await house.rig.node("n1")
    await house.rig.lose("n1")
    with pytest.raises(Problem, match="its last session is not fenced"):
        await remove_node(house.rig.cluster, request("sold"), "n1")
    assert not (await house.credential()).removing
    assert house.accounts.users["node.n1"]


async def test_without_a_server_the_removal_says_pending(house: House) -> None:
    await house.join(await house.token(), new_key())
    removed = await remove_node(house.rig.cluster, request("sold"), "n1")
    assert (await wait_revoked(house.rig.cluster, "n1", removed, 0.05)).credentials == "pending"
    assert (await house.credential()).removing


@pytest.mark.parametrize("step", ["accounts.remove", "storage_users.remove", "cluster.commit"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_a_removal_that_dies_half_way_is_finished(house: House, step: str, done: bool) -> None:
    await house.join(await house.token(), new_key())
    await remove_node(house.rig.cluster, request("sold"), "n1")
    with pytest.raises(Dies):
        await finish(house.dying(step, done), "n1")
    await finish(house.desk, "n1")
    assert (house.accounts.users.get("node.n1"), house.users.users) == (None, {})
    left = await house.credential()
    assert (left.removing, left.user, len(left.revoked)) == (False, "", 1)
    assert len(house.ca.revoked()) == 1


async def test_a_removed_node_joins_again_by_a_token(house: House) -> None:
    await house.join(await house.token(), new_key())
    await remove_node(house.rig.cluster, request("sold"), "n1")
    again = await house.join(await house.token(), new_key())  # the removal is finished first
    assert house.accounts.users["node.n1"]
    assert list(house.users.users) == [again.settings.user]
    assert len(house.ca.revoked()) == 1


async def test_a_token_of_before_the_removal_is_used(house: House) -> None:
    token, key = await house.token(), new_key()
    await house.join(token, key)
    await remove_node(house.rig.cluster, request("sold"), "n1")
    assert (await house.refused(token, key)).why is Why.USED


async def test_a_second_host_learns_of_revocations(house: House, tmp_path: Path) -> None:
    shutil.copytree(house.ca.path, tmp_path / "ca2")
    await house.join(await house.token(), new_key())
    await remove_node(house.rig.cluster, request("sold"), "n1")
    await finish(house.desk, "n1")
    other = CaFolder(tmp_path / "ca2", now)
    await tidy(replace_desk(house.desk, ca=other), "n1")
    assert [one.serial for one in other.revoked()] == [one.serial for one in house.ca.revoked()]
