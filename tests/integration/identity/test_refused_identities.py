"""An identity that does not count is refused with one clear line; a renewed one is used without a restart."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from management_host import Host
from msgspec.structs import replace
from secured_etcd import Secured

from metastack.core.etcd_roles import node_role
from metastack.core.state.keys import Keys
from metastack.core.transaction import Put, Transaction
from metastack.pki.files import read, write
from metastack.pki.folder import CaFolder
from metastack.pki.subject import SubjectKind, subject
from metastack.ports import Denied, Unavailable
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore

pytestmark = pytest.mark.etcd
KEYS = Keys()
VERA = subject(SubjectKind.OPERATOR, "vera", "viewer")
OTTO = subject(SubjectKind.OPERATOR, "otto", "operator")
N1 = subject(SubjectKind.NODE, "n1")


def store_of(settings: StoreSettings) -> EtcdStore:
    return EtcdStore(settings, total_timeout_s=2.0)


def puts(key: str) -> Transaction:
    return Transaction(name="test", guards=(), effects=(Put(key, b"{}"),))


async def refused(host: Host, name: str, *line: str) -> tuple[int, str]:
    """The status, and what was wrong with what, which is one line for people."""
    answer = await host.asks(name, *(line or ("vm", "list")))
    error = answer.error()
    assert error["hint"], answer
    plain = await host.run("--context", name, *(line or ("vm", "list")))
    assert plain.err.startswith("error: "), plain
    assert len(plain.err.splitlines()) == 2, plain
    return answer.status, f"{error['object']}: {error['message']}"


async def test_a_viewer_reads_and_does_not_write(cluster: Host) -> None:
    await cluster.known_as(VERA)
    assert (await cluster.asks("vera", "config", "show")).status == 0
    status, said = await refused(cluster, "vera", "project", "create", "x")
    assert status == 6
    assert "operator.vera may not" in said


async def test_an_operator_changes_no_settings(cluster: Host) -> None:
    await cluster.known_as(OTTO)
    assert (await cluster.asks("otto", "project", "create", "x")).status == 0
    status, said = await refused(cluster, "otto", "config", "set", "grace_s=1")
    assert status == 6
    assert "operator.otto may not" in said


async def test_an_expired_certificate_is_named(cluster: Host) -> None:
    await cluster.context("vera", cluster.secured.expired(VERA))
    status, said = await refused(cluster, "vera")
    assert status == 6
    assert "(operator.vera): expired 86" in said


async def test_a_certificate_of_another_ca_is_named(cluster: Host) -> None:
    other = CaFolder.make(cluster.secured.folder / "other", "other", lambda: datetime.now(UTC))
    theirs = cluster.secured.reached_with(cluster.secured.files(VERA, ca=other))
    await cluster.context("vera", replace(theirs, ca=str(cluster.secured.ca.path / "ca.crt")))
    status, said = await refused(cluster, "vera")
    assert status == 6
    assert "is not signed by the CA" in said
    await cluster.context("vera", theirs)
    status, said = await refused(cluster, "vera")
    assert status == 7
    assert "its certificate is not trusted" in said


async def test_no_certificate_is_named(cluster: Host) -> None:
    await cluster.context("vera", replace(cluster.secured.settings(VERA), cert="", key=""))
    status, said = await refused(cluster, "vera")
    assert status == 7
    assert "it demands a client certificate, and none is configured" in said


async def test_a_certificate_without_a_user_is_named(cluster: Host) -> None:
    await cluster.context("vera", cluster.secured.settings(VERA))
    status, said = await refused(cluster, "vera")
    assert status == 6
    assert "operator.vera may not" in said


async def test_a_revoked_user_is_refused_at_once(cluster: Host) -> None:
    await cluster.known_as(VERA)
    store = store_of(cluster.secured.settings(VERA))
    await store.get(KEYS.cluster())
    answer = await cluster.run(
        *("pki", "revoke", "operator.vera", "--reason", "left", "--yes", *cluster.ca, "--context", "lab")
    )
    assert answer.status == 0, answer
    assert "user operator.vera deleted" in answer.err
    with pytest.raises(Denied):
        await store.get(KEYS.cluster())
    await store.close()


async def test_etcd_heeds_a_revocation_list_without_a_restart(secured: Secured) -> None:
    for member in secured.etcd.members:
        await member.kill()
        member.extra = (f"--client-crl-file={secured.ca.crl}",)
    await secured.etcd.start()
    anna = secured.settings(VERA)
    before, other = store_of(anna), store_of(secured.settings(OTTO))
    assert await before.get("/x") is None
    secured.ca.revoke(VERA.user, "left")
    after = store_of(anna)
    with pytest.raises(Unavailable, match="is the certificate revoked"):
        await after.get("/x")
    # Whoever is connected stays so: the user in etcd has to go, too.
    assert await before.get("/x") is None
    assert await other.get("/x") is None
    for store in (before, after, other):
        await store.close()


async def test_an_open_watch_outlives_its_user(cluster: Host) -> None:
    secured = cluster.secured
    async with secured.users() as users:
        await users.apply([node_role(KEYS, "n1")])
    await secured.admit(N1)
    node, root = store_of(secured.settings(N1)), store_of(secured.settings(secured.root))
    stream = node.watch(KEYS.prefix(), (await root.list(KEYS.cluster())).revision)
    first = asyncio.ensure_future(anext(stream))
    await node.get(KEYS.cluster())
    await root.commit(puts(KEYS.project("a")))
    await asyncio.wait_for(first, 5)
    async with secured.users() as users:
        await users.remove([N1.user], [N1.user])
    with pytest.raises(Denied):
        await node.get(KEYS.cluster())
    await root.commit(puts(KEYS.project("b")))
    events = (await asyncio.wait_for(anext(stream), 5)).events
    assert [event.key for event in events] == [KEYS.project("b")]
    # It ends with the connection, and no new one begins.
    await secured.etcd.kill()
    await secured.etcd.start()
    with pytest.raises(Denied):
        await asyncio.wait_for(anext(stream), 10)
    for store in (node, root):
        await store.close()


async def test_a_renewed_certificate_is_shown_at_reconnect(cluster: Host) -> None:
    """The renewed one is of another user here, so that etcd tells which was shown."""
    secured = cluster.secured
    await secured.admit(VERA, OTTO)
    files, renewed = secured.files(VERA), secured.files(OTTO)
    store = store_of(secured.reached_with(files))
    with pytest.raises(Denied):
        await store.commit(puts(KEYS.project("a")))
    for old, new in ((files.key, renewed.key), (files.cert, renewed.cert)):
        write(old, read(new), 0o600)
    with pytest.raises(Denied):
        await store.commit(puts(KEYS.project("a")))
    await secured.etcd.kill()
    await secured.etcd.start()
    await store.commit(puts(KEYS.project("a")))
    await store.close()
