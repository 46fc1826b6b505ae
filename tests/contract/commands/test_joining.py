"""A node joins: tokens, answers and refusals of ``pki serve``, on both stores; users in memory."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from commands_rig import request
from joining_house import CEPH, ENDPOINTS, PLACE, Dies, House, now, quietly, replace_desk
from msgspec.structs import replace

from metastack.commands.joining.answering import LARGEST, answer, forget, storage_user
from metastack.commands.joining.asking import Joined, ask
from metastack.commands.joining.tokens import create_token, list_tokens, revoke_token
from metastack.commands.node.change import cordon_node
from metastack.commands.problem import Code, Problem
from metastack.commands.request import Cluster
from metastack.core.model import JoinRequest, NodeFacts, NodeSpec
from metastack.core.state.codec import encode
from metastack.core.transaction import Lease, Outcome, Put, Transaction
from metastack.pki.authority import new_key, serial_text
from metastack.pki.files import load_certificate
from metastack.pki.folder import CaFolder
from metastack.pki.refusal import Refusal, Why
from metastack.pki.tokens import parse_token
from metastack.ports import Unavailable
from metastack.ports.wrapped_store import WrappedStore


async def test_a_node_joins_and_gets_all_that_it_needs(house: House) -> None:
    token, key = await house.token(), new_key()
    joined = await house.join(token, key)
    assert joined.user == "node.n1"
    assert joined.storage_key == "key-1"
    assert joined.settings.user == storage_user("n1", token.id)
    assert joined.settings.monitors == CEPH.monitors
    assert house.accounts.users["node.n1"] == {"node", "fencer", "node.n1"}
    assert house.users.users[joined.settings.user] == ("key-1", ("10.1.0.9",))
    spec = await house.cluster.read(NodeSpec, house.keys.node_spec("n1"))
    assert spec is not None
    assert (await house.record(token)).spent_on
    assert [e.what for e in await house.rig.events()] == ["node.token", "node.join"]


async def test_the_storage_key_is_sealed_for_the_node(house: House) -> None:
    token = await house.token()
    await house.join(token, new_key())
    entry = await house.cluster.store.get(house.keys.join_answer(token.id))
    assert entry is not None
    assert b"key-1" not in entry.value
    assert entry.lease == (await house.record(token)).lease


async def test_the_same_key_again_gets_the_same_answer(house: House) -> None:
    token, key = await house.token(), new_key()
    first = await house.join(token, key)
    again = await house.join(token, key)
    assert again == first
    assert len(house.ca.list()) == 2  # the bearer's and the node's


async def test_another_key_finds_the_token_used(house: House) -> None:
    token = await house.token()
    await house.join(token, new_key())
    assert (await house.refused(token, new_key())).why is Why.USED


async def test_of_two_keys_at_once_one_is_admitted(house: House) -> None:
    """The losing request is overwritten or refused: never are two keys admitted by one token."""
    token = await house.token()
    keys = [new_key(), new_key()]
    both = await asyncio.gather(*(quietly(house.join(token, key)) for key in keys))
    assert [isinstance(one, Joined) for one in both].count(True) == 1
    assert [one.why for one in both if isinstance(one, Refusal)] == [Why.USED]


async def test_each_refusal_names_its_reason(house: House) -> None:
    token, other, key = await house.token(), await house.token("n7"), new_key()
    assert (await house.refused(replace(token, key=other.key), key)).why is Why.WRONG_SECRET
    assert (await house.refused(replace(token, node="n2"), key)).why is Why.OTHER_NAME
    assert (await house.refused(replace(token, ca_fingerprint="ab" * 32), key)).why is Why.OTHER_CA
    assert (await house.refused(replace(token, id="0" * 16), key)).why is Why.UNKNOWN
    house.users.trouble = Unavailable("no monitor answers")
    refused = await house.refused(token, key)
    assert (refused.why, "no monitor answers" in refused.message) == (Why.STORAGE_USER, True)
    house.users.trouble = None
    assert not (await house.record(token)).spent_on
    await house.join(token, key)


@pytest.mark.parametrize(("off_s", "way"), [(600, "ahead"), (-600, "behind")])
async def test_a_wrong_clock_is_told_to_the_node(house: House, off_s: int, way: str) -> None:
    refused = await house.refused(await house.token(), new_key(), off_s=off_s)
    assert refused.why is Why.CLOCK
    assert f"the clock of n1 is off by {600} s ({way})" in refused.message.replace("599", "600").replace(
        "601", "600"
    )


async def test_a_late_answer_is_no_wrong_clock(house: House) -> None:
    """A request that lay for ten minutes looks as if its sender were behind: it asks once more."""
    token, times = await house.token(), iter((-600.0,))
    shift = lambda: now() + timedelta(seconds=next(times, 0.0))  # noqa: E731
    sent = asyncio.create_task(
        ask(house.cluster.store, house.keys, token, new_key(), shift, answer_s=10, **PLACE)
    )
    # The first request says ten minutes ago, and is heard of now.
    while not sent.done():
        await answer(house.desk, token.id)
        await asyncio.sleep(0)
    assert (await sent).user == "node.n1"


async def test_an_expired_token_is_told_from_one_that_never_was(house: House) -> None:
    token = await house.token()
    record = await house.record(token)
    await house.cluster.store.revoke(Lease(id=record.lease, ttl_s=0, deadline_s=0.0))
    assert (await house.refused(token, new_key())).why is Why.EXPIRED
    assert [view.state for view in await list_tokens(house.cluster)] == ["expired"]


async def test_a_token_that_expires_in_the_last_moment_admits_nobody(house: House) -> None:
    """Its life is a matter of the transaction itself: the look before it saw a token that lived."""
    token, key = await house.token(), new_key()
    record = await house.record(token)

    class Ends(WrappedStore):
        async def commit(self, change: Transaction) -> Outcome:
            if change.name == "node.join":
                await self._inner.revoke(Lease(id=record.lease, ttl_s=0, deadline_s=0.0))
            return await self._inner.commit(change)

    house.desk = replace_desk(house.desk, Cluster(Ends(house.cluster.store), house.keys))
    assert (await house.refused(token, key)).why is Why.EXPIRED
    assert not (await house.record(token)).spent_on


async def test_a_revoked_token_says_so(house: House) -> None:
    token = await house.token()
    assert (await revoke_token(house.rig.cluster, request("lost"), token.id)).state == "revoked"
    assert (await house.refused(token, new_key())).why is Why.REVOKED


async def test_a_token_over_is_forgotten_with_its_user(house: House) -> None:
    token = await house.token()
    assert f"join.{token.id}" in house.accounts.users
    assert not await forget(house.desk, token.id)
    house.desk = replace_desk(house.desk, clock=lambda: now() + timedelta(hours=2))
    assert await forget(house.desk, token.id)
    assert f"join.{token.id}" not in house.accounts.users
    assert (await house.cluster.store.list(house.keys.token(token.id))).entries == ()


@pytest.mark.parametrize(
    "value",
    [b"x" * (1 << 20), b"", b"\xff\xfe", b"{}", b'{"v":99}', b"[" * 20_000, b'{"id":"' + b"a" * 9_000 + b'"}'],
    ids=["large", "empty", "bytes", "nothing", "newer", "deep", "long"],
)
async def test_rubbish_of_a_bearer_stops_nobody(house: House, value: bytes) -> None:
    bad, good = await house.token("n1"), await house.token("n2")
    put = Put(house.keys.join_request(bad.id), value)
    await house.cluster.store.commit(Transaction(name="join_request", guards=(), effects=(put,)))
    async with house.serving():
        joined = await ask(house.cluster.store, house.keys, good, new_key(), now, answer_s=10, **PLACE)
        assert joined.user == "node.n2"
        assert (await house.record(bad)).spent_on == ""


async def test_a_request_at_its_bound_is_answered(house: House) -> None:
    token = await house.token()
    record = JoinRequest(
        id=token.id, nonce="n" * 65, proof="s", node="n1", ca_fingerprint="f", request="r" * LARGEST
    )
    put = Put(house.keys.join_request(token.id), encode(record))
    await house.cluster.store.commit(Transaction(name="join_request", guards=(), effects=(put,)))
    assert await answer(house.desk, token.id) == Why.BAD_REQUEST
    assert await answer(house.desk, token.id) == ""  # once


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"hosts": ("10.0.0.1",)}, "10.0.0.1"),
        ({"hosts": ("n2",)}, "n2"),
        ({"storage_addresses": ("10.1.0.2",)}, "10.1.0.2"),
        ({"hosts": ("::ffff:0a01:0002", "10.1.0.2")}, "10.1.0.2"),
    ],
)
async def test_the_address_of_another_machine_is_not_given(
    house: House, places: dict[str, tuple[str, ...]], said: str
) -> None:
    facts = NodeFacts(name="n2", uuid="u2", storage_addresses=("10.1.0.2",))
    await house.rig.put(house.keys.node_facts("n2"), facts)
    refused = await house.refused(await house.token(), new_key(), **places)
    assert refused.why is Why.OTHER_ADDRESS
    assert said in refused.message


async def test_an_address_that_the_token_names_is_given(house: House) -> None:
    token = await house.token(hosts=("10.0.0.1",), storage_addresses=("10.0.0.1",))
    joined = await house.join(token, new_key(), hosts=("10.0.0.77",), storage_addresses=("10.0.0.78",))
    assert joined.settings.storage_addresses == ("10.0.0.1",)
    assert (await house.credential()).hosts == ("n1", "10.0.0.1")


@pytest.mark.parametrize("bad", ['10.0.0.9" , allow *', "all", "10.0.0.0/8", "0x7f.1"])
async def test_an_address_is_no_text_for_a_capability(house: House, bad: str) -> None:
    refused = await house.refused(await house.token(), new_key(), storage_addresses=(bad,))
    assert refused.why is Why.BAD_HOST
    assert house.users.users == {}


async def test_a_living_node_keeps_its_name(house: House) -> None:
    token = await house.token()
    await house.rig.node("n1")
    assert (await house.refused(token, new_key())).why is Why.ALIVE
    with pytest.raises(Problem, match="is alive") as raised:
        await create_token(house.rig.cluster, request(), "n1", ENDPOINTS)
    assert raised.value.code is Code.CONFLICT


async def test_a_wiped_host_joins_again_with_a_token(house: House) -> None:
    old_token = await house.token()
    old = await house.join(old_token, new_key())
    await cordon_node(house.rig.cluster, request(), "n1")
    again = await house.join(await house.token(), new_key())
    assert again.storage_key != old.storage_key
    assert list(house.users.users) == [again.settings.user]
    serial = serial_text(load_certificate(old.certificate, "old").serial_number)
    assert [one.serial for one in house.ca.revoked()] == [serial]
    spec = await house.cluster.read(NodeSpec, house.keys.node_spec("n1"))
    assert spec is not None and spec.ok.cordoned


async def test_the_first_host_cannot_repeat_its_join_then(house: House) -> None:
    token, key = await house.token(), new_key()
    await house.join(token, key)
    await house.join(await house.token(), new_key())
    assert (await house.refused(token, key)).why is Why.USED


class Meanwhile(WrappedStore):
    """Just before the transaction that admits a node, once, something else happens."""

    def __init__(self, house: House, happens: str, without: str = "") -> None:
        super().__init__(house.cluster.store)
        self._house, self._happens, self._without = house, happens, without

    async def commit(self, change: Transaction) -> Outcome:
        if change.name == "node.join" and self._happens:
            happens, self._happens = self._happens, ""
            await getattr(self._house, f"then_{happens}")()
            kept = tuple(guard for guard in change.guards if guard.key != self._without)
            assert self._without == "" or len(kept) == len(change.guards) - 1
            change = replace(change, guards=kept)
        return await self._inner.commit(change)


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        ("revoked", Why.REVOKED),
        ("alive", Why.ALIVE),
        ("used", Why.USED),
        ("removed", Why.USED),
    ],
)
async def test_what_happens_meanwhile_is_seen(house: House, happens: str, why: Why) -> None:
    house.bearer, house.key = await house.token(), new_key()
    if happens == "removed":
        await house.join(house.bearer, house.key)
    house.desk = replace_desk(house.desk, Cluster(Meanwhile(house, happens), house.keys))
    assert (await house.refused(house.bearer, house.key)).why is why


@pytest.mark.parametrize("happens", ["revoked", "used", "alive", "removed", "cordoned"])
async def test_each_guard_is_needed(house: House, happens: str) -> None:
    """Without the guard that sees it, the node is admitted all the same: the fault that it prevents."""
    keys, house.bearer, house.key = house.keys, await house.token(), new_key()
    if happens == "removed":
        await house.join(house.bearer, house.key)
    without = {
        "revoked": keys.token(house.bearer.id),
        "used": keys.token(house.bearer.id),
        "alive": keys.node_alive("n1"),
        "removed": keys.credential("n1"),
        "cordoned": keys.node_spec("n1"),
    }[happens]
    house.desk = replace_desk(house.desk, Cluster(Meanwhile(house, happens, without), keys))
    assert (await house.join(house.bearer, house.key)).user == "node.n1"
    spec = await house.cluster.read(NodeSpec, keys.node_spec("n1"))
    assert spec is None or not spec.ok.cordoned


async def test_a_cordon_that_comes_meanwhile_stays(house: House) -> None:
    house.bearer = await house.token()
    house.desk = replace_desk(house.desk, Cluster(Meanwhile(house, "cordoned"), house.keys))
    await house.join(house.bearer, new_key())
    spec = await house.cluster.read(NodeSpec, house.keys.node_spec("n1"))
    assert spec is not None and spec.ok.cordoned


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["accounts.apply", "storage_users.make", "cluster.commit"])
async def test_a_server_that_dies_at_any_step_is_followed(house: House, step: str, done: bool) -> None:
    token, key, desk = await house.token(), new_key(), house.desk
    asking = asyncio.create_task(ask(house.cluster.store, house.keys, token, key, now, answer_s=10, **PLACE))
    await house.asked(token)
    with pytest.raises(Dies):
        await answer(house.dying(step, done), token.id)
    while not asking.done():
        await answer(desk, token.id)
        await asyncio.sleep(0)
    joined = await asking
    assert joined.storage_key == "key-1"
    assert list(house.users.users) == [joined.settings.user]
    assert len(house.ca.list()) == 2
    assert await house.join(token, key) == joined


async def test_nobody_signs_and_the_token_is_withdrawn(house: House) -> None:
    with pytest.raises(Problem, match="no `metastack pki serve` signed it") as raised:
        await create_token(house.rig.cluster, request(), "n1", ENDPOINTS, answer_s=0.05)
    assert raised.value.code is Code.TIMEOUT
    assert [view.state for view in await list_tokens(house.cluster)] == ["revoked"]


async def test_a_token_of_another_ca_is_not_handed_out(house: House, tmp_path: Path) -> None:
    other = CaFolder.make(tmp_path / "other", "prod", now)
    with pytest.raises(Problem, match="this context trusts"):
        async with house.serving():
            await create_token(
                house.rig.cluster, request(), "n1", ENDPOINTS, ca=other.authority.certificate_pem
            )


async def test_two_servers_answer_beside_each_other(house: House) -> None:
    async with house.serving(), house.serving():
        made = await create_token(house.rig.cluster, request(), "n1", ENDPOINTS)
        token, key = parse_token(made.token), new_key()
        joined = await ask(house.cluster.store, house.keys, token, key, now, answer_s=10, **PLACE)
        again = await ask(house.cluster.store, house.keys, token, key, now, answer_s=10, **PLACE)
    assert joined == again
    assert len(house.users.users) == 1
