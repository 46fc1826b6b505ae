"""A host joins by a token: the programs themselves, on an etcd with mutual TLS and rights."""

from __future__ import annotations

import asyncio
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cli_program import finish
from join_site import Site
from secured_etcd import Secured

from metastack.agent.settings import load
from metastack.commands.joining.asking import ask
from metastack.core.model import NodeFacts
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys
from metastack.core.transaction import Put, Transaction
from metastack.pki.authority import new_key
from metastack.pki.files import IdentityFiles, read_identity
from metastack.pki.refusal import Refusal, Why
from metastack.pki.subject import SubjectKind, subject
from metastack.pki.tokens import parse_token
from metastack.ports import Denied, NotFound
from metastack.store.etcd.store import EtcdStore

pytestmark = pytest.mark.etcd
KEYS = Keys()
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


@pytest.fixture
async def site(secured: Secured, tmp_path: Path) -> Site:
    shared = tmp_path / "shared"
    shared.mkdir()
    made = Site(secured, {"kind": "file", "directory": str(shared)})
    await made.begin()
    return made


async def test_a_host_joins_with_one_command(site: Site, tmp_path: Path) -> None:
    async with site.serving():
        token = await site.token("n1", "--host", "127.0.0.1")
        answer = (await site.join(token, tmp_path)).json()
        again = await site.join(token, tmp_path)
        listed = (await site.run("node", "token", "list", "-o", "json")).json()
    assert answer["name"] == again.json()["name"] == "n1"
    assert answer["agent"] == "systemctl enable --now metastack-agent"
    etc = tmp_path / "etc" / "metastack"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (etc / "pki").iterdir()}
    assert modes == {"ca.crt": 0o644, "node.n1.crt": 0o644, "node.n1.key": 0o600}
    settings = load(etc / "agent.toml", {})
    assert (settings.name, settings.endpoints) == ("n1", site.secured.etcd.endpoints)
    assert settings.cert == "/etc/metastack/pki/node.n1.crt"
    assert [(one["node"], one["state"]) for one in listed] == [("n1", "used")]
    store = EtcdStore(site.node(tmp_path))
    facts = NodeFacts(name="n1", uuid="u")
    await store.commit(Transaction(name="t", guards=(), effects=(Put(KEYS.node_facts("n1"), encode(facts)),)))
    with pytest.raises(Denied):
        await store.commit(
            Transaction(name="t", guards=(), effects=(Put(KEYS.node_facts("n2"), encode(facts)),))
        )
    await store.close()


async def test_a_bearer_reaches_its_own_exchange_alone(site: Site, tmp_path: Path) -> None:
    async with site.serving():
        token = parse_token(await site.token())
    from metastack.commands.joining.layout import NodeLayout

    with NodeLayout(tmp_path, "n1").bearer(token) as settings:
        store = EtcdStore(settings)
        assert await store.get(KEYS.join_request(token.id)) is None
        for key in (KEYS.cluster(), KEYS.token(token.id), KEYS.join_request("0" * 16)):
            with pytest.raises(Denied):
                await store.get(key)
            with pytest.raises(Denied):
                await store.commit(Transaction(name="t", guards=(), effects=(Put(key, b"{}"),)))
        await store.close()
    assert not list((tmp_path / "etc" / "metastack" / "pki").iterdir())


async def test_the_second_host_finds_the_token_used(site: Site, tmp_path: Path) -> None:
    async with site.serving():
        token = await site.token("n1", "--host", "127.0.0.1")
        assert (await site.join(token, tmp_path / "a")).status == 0
        refused = await site.join(token, tmp_path / "b")
    assert refused.status == 1
    assert refused.error()["message"] == "was used by another request"
    assert "if n1 was wiped" in refused.error()["hint"]


async def test_a_revoked_token_is_refused(site: Site, tmp_path: Path) -> None:
    async with site.serving():
        token = await site.token()
        revoked = await site.run("node", "token", "revoke", parse_token(token).id, "-o", "json")
        assert revoked.json()["state"] == "revoked"
        refused = await site.join(token, tmp_path)
    assert refused.error()["message"] == "was revoked"


async def test_an_expired_token_says_so(site: Site, tmp_path: Path) -> None:
    async with site.serving():
        token = await site.token("n1", "--ttl", "10s")
        store = EtcdStore(site.secured.settings(site.secured.root))
        async with asyncio.timeout(60):
            listed: list[dict[str, Any]] = [{"state": "valid"}]
            while listed[0]["state"] != "expired":
                listed = (await site.run("node", "token", "list", "-o", "json")).json()
        await store.close()
        refused = await site.join(token, tmp_path)
    assert refused.error()["message"] == "expired: its 10 s are over"
    assert "node token create n1" in refused.error()["hint"]


async def test_a_token_for_another_host_is_refused(site: Site, tmp_path: Path) -> None:
    async with site.serving():
        token = await site.token()
        refused = await site.join(token, tmp_path, "--name", "n2")
    assert refused.error()["message"] == "is for node n1, not for n2"


async def test_a_host_of_another_cluster_is_refused(site: Site, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from metastack.pki.files import write
    from metastack.pki.folder import CaFolder

    other = CaFolder.make(tmp_path / "ca", "other", lambda: datetime.now(UTC))
    (tmp_path / "etc/metastack/pki").mkdir(parents=True)
    write(tmp_path / "etc/metastack/pki/ca.crt", other.authority.certificate_pem, 0o644)
    async with site.serving():
        refused = await site.join(await site.token(), tmp_path)
    assert "is of another cluster: its CA is" in refused.error()["message"]


@pytest.mark.parametrize(("shift", "way"), [("+10m", "ahead"), ("-10m", "behind")])
async def test_a_clock_off_by_ten_minutes_is_told(site: Site, tmp_path: Path, shift: str, way: str) -> None:
    async with site.serving():
        token = await site.token("n1", "--host", "127.0.0.1")
        fake = {"LD_PRELOAD": FAKETIME, "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        refused = await site.join(token, tmp_path, **fake)
        assert refused.status == 1, refused
        off = re.search(rf"off by (\d+) s \({way}\)", refused.error()["message"])
        assert off and abs(int(off[1]) - 600) < 30, refused
        assert "timedatectl" in refused.error()["hint"]
        assert (await site.join(token, tmp_path)).status == 0  # nothing was spent


async def test_nobody_answers_and_the_join_says_so(site: Site, tmp_path: Path) -> None:
    async with site.serving():
        token = await site.token("n1", "--host", "127.0.0.1")
    refused = await site.join(token, tmp_path, "--timeout", "1")
    assert "no `metastack pki serve` answers within 1 s" in refused.error()["message"]
    async with site.serving():  # what was asked meanwhile is no hindrance
        assert (await site.join(token, tmp_path)).status == 0


async def test_a_removed_node_is_shut_out(site: Site, tmp_path: Path) -> None:
    async with site.serving():
        token = await site.token("n1", "--host", "127.0.0.1")
        assert (await site.join(token, tmp_path)).status == 0
        store = EtcdStore(site.node(tmp_path))
        assert await store.get(KEYS.cluster()) is not None
        removed = (await site.run("node", "remove", "n1", "--yes", "--reason", "sold", "-o", "json")).json()
        assert removed["credentials"] == "revoked"
        with pytest.raises((Denied, NotFound)):
            await store.get(KEYS.cluster())
        await store.close()
        assert len(site.secured.ca.revoked()) == 1
        assert (await site.run("node", "show", "n1", "-o", "json")).status == 3
        again = await site.token("n1", "--host", "127.0.0.1")
        assert (await site.join(again, tmp_path / "new")).status == 0


async def test_a_join_that_dies_before_its_files_is_repeated(site: Site, tmp_path: Path) -> None:
    """The answer was there, nothing was written, and the host asks again with the key that it kept."""
    from datetime import UTC, datetime

    from metastack.commands.joining.layout import NodeLayout

    async with site.serving():
        text = await site.token("n1", "--host", "127.0.0.1")
        token, layout = parse_token(text), NodeLayout(tmp_path, "n1")
        key = layout.key()
        with layout.bearer(token) as settings:
            store = EtcdStore(settings)
            joined = await ask(store, KEYS, token, key, lambda: datetime.now(UTC))
            with pytest.raises(Refusal) as refused:
                await ask(store, KEYS, token, new_key(), lambda: datetime.now(UTC))
            await store.close()
        assert refused.value.why is Why.USED
        assert (await site.join(text, tmp_path)).status == 0
    pki = tmp_path / "etc/metastack/pki"
    found = read_identity(
        IdentityFiles(pki / "ca.crt", pki / "node.n1.crt", pki / "node.n1.key"), datetime.now(UTC)
    )
    assert found.certificate.serial_number == _serial(joined.certificate)


def _serial(pem: bytes) -> int:
    from metastack.pki.files import load_certificate

    return load_certificate(pem, "x").serial_number


async def test_settings_that_somebody_wrote_stay(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "etc/metastack/agent.toml"
    path.parent.mkdir(parents=True)
    path.write_text("# mine\n")
    async with site.serving():
        token = await site.token("n1", "--host", "127.0.0.1")
        assert (await site.join(token, tmp_path)).status == 0
    assert path.read_text() == "# mine\n"
    assert tomllib.loads(path.with_name("agent.toml.new").read_text())["name"] == "n1"


async def test_a_token_is_read_from_standard_input(site: Site, tmp_path: Path) -> None:
    async with site.serving():
        token = await site.token("n1", "--host", "127.0.0.1")
        process = await site.run.start(
            "node", "join", "-", "--root", str(tmp_path), stdin=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(token.encode() + b"\n")
        process.stdin.close()
        answer = await finish(process)
    assert (answer.status, answer.out) == (0, "node n1 joined\n"), answer


async def test_a_killed_server_is_followed_by_the_next(site: Site, tmp_path: Path) -> None:
    async with site.serving() as first:
        token = await site.token("n1", "--host", "127.0.0.1")
        process = await site.run.start("node", "join", token, "--root", str(tmp_path))
        store = EtcdStore(site.secured.settings(site.secured.root))
        async with asyncio.timeout(30):
            async for batch in store.watch(KEYS.joins(), 1):
                if batch.events:
                    first.kill()
                    break
        await store.close()
        await first.wait()
    async with site.serving():
        assert (await finish(process)).status == 0
        listed = (await site.run("node", "token", "list", "-o", "json")).json()
    assert [one["state"] for one in listed] == ["used"]
    # Every step may be done twice, and the node's certificate is one.
    assert [one.user for one in site.secured.ca.list()].count("node.n1") == 1


async def test_an_operator_makes_no_tokens(site: Site) -> None:
    olga = subject(SubjectKind.OPERATOR, "olga", "operator")
    await site.secured.admit(olga)
    config = site.context("olga", olga, {"kind": "file", "directory": "/x"})
    answer = await site.run("node", "token", "create", "n1", "-o", "json", METASTACK_CONFIG=str(config))
    assert answer.status == 6
