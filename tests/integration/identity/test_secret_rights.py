"""A real etcd gives ``secrets/`` to nodes and admins, and to nobody else."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cli_program import finish
from management_host import Host

from metastack.core.etcd_roles import node_role
from metastack.core.model import Secret
from metastack.core.state.codec import decode
from metastack.core.state.keys import Keys, Kind
from metastack.core.transaction import Delete, Put, Transaction
from metastack.pki.subject import SubjectKind, subject
from metastack.ports import Denied
from metastack.secrets.envelope import unseal
from metastack.secrets.keyring import read
from metastack.store.etcd.store import EtcdStore

pytestmark = pytest.mark.etcd
KEYS = Keys()
KEY = KEYS.secret("a")
VERA = subject(SubjectKind.OPERATOR, "vera", "viewer")
OTTO = subject(SubjectKind.OPERATOR, "otto", "operator")
SCHEDULER = subject(SubjectKind.SERVICE, "scheduler")
N1 = subject(SubjectKind.NODE, "n1")


async def test_nodes_and_admins_alone_reach_secrets(cluster: Host, tmp_path: Path) -> None:
    ring = ("--key-file", str(tmp_path / "secrets.key"))
    assert (await cluster.run("secret", "key", "create", *ring)).status == 0
    putting = await cluster.run.start("secret", "put", "a", *ring, stdin=asyncio.subprocess.PIPE)
    answer = await finish(putting, b"value")
    assert answer.status == 0, answer
    assert [one["name"] for one in json.loads((await cluster.run("secret", "list", "-o", "json")).out)] == ["a"]

    for who in (VERA, OTTO):
        await cluster.known_as(who)
        for line in (("list",), ("show", "a"), ("delete", "a", "--yes"), ("rotate", *ring)):
            refused = await cluster.asks(who.name, "secret", *line)
            assert refused.status == 6, refused
        found = json.loads((await cluster.asks(who.name, "doctor", "--no-storage")).out)
        assert [one["severity"] for one in found if one["check"] == "secret_keys"] == ["info"]
    blind = await cluster.run.start(
        "--context", "otto", "secret", "put", "a", *ring, stdin=asyncio.subprocess.PIPE
    )
    assert (await finish(blind, b"another")).status == 6

    async with cluster.secured.users() as users:
        await users.apply(roles=(node_role(KEYS, "n1"),))
    await cluster.secured.admit(N1, SCHEDULER)
    node = EtcdStore(cluster.secured.settings(N1), total_timeout_s=2.0)
    entry = await node.get(KEY)
    assert entry is not None
    assert unseal(read(tmp_path / "secrets.key"), KEY, decode(Secret, entry.value)) == b"value"
    for effect in (Put(KEY, b"{}"), Delete(KEY)):
        with pytest.raises(Denied):
            await node.commit(Transaction(name="test", guards=(), effects=(effect,)))
    await node.close()


async def test_a_scheduler_watches_up_to_the_secrets(cluster: Host) -> None:
    await cluster.secured.admit(SCHEDULER)
    store = EtcdStore(cluster.secured.settings(SCHEDULER), total_timeout_s=2.0)
    start = (await store.list(KEYS.cluster())).revision
    with pytest.raises(Denied):
        await store.get(KEY)
    assert (await cluster.run("project", "create", "x")).status == 0
    async with asyncio.timeout(20):
        seen = []
        async for batch in store.watch(KEYS.prefix(), start, until=KEYS.prefix(Kind.SECRET)):
            seen += [event.key for event in batch.events]
            if KEYS.project("x") in seen:
                break
        with pytest.raises(Denied):
            await anext(store.watch(KEYS.prefix(), start))
    await store.close()
