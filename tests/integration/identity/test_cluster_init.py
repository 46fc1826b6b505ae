"""``cluster init``: from a bare etcd with mutual TLS to a cluster whose rights hold."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from management_host import Host
from secured_etcd import Secured

from metastack.commands.cluster.identity import secure
from metastack.commands.request import Cluster, new_request
from metastack.core.etcd_roles import cluster_roles
from metastack.core.model import ClusterConfig
from metastack.core.state.codec import decode
from metastack.core.state.keys import Keys
from metastack.core.state.record_versions import LEVEL
from metastack.core.transaction import Put, Transaction
from metastack.lab.dev.etcd import EtcdTls
from metastack.pki.folder import CaFolder
from metastack.pki.subject import SubjectKind, subject
from metastack.store.etcd.store import EtcdStore
from metastack.store.etcd.users import EtcdUsers

pytestmark = pytest.mark.etcd
KEYS = Keys()


def puts(key: str) -> Transaction:
    return Transaction(name="test", guards=(), effects=(Put(key, b"{}"),))


async def test_a_bare_etcd_becomes_a_cluster(host: Host) -> None:
    view = (await host.init()).json()
    assert (view["admin"], view["context"]) == ("operator.admin", "lab")
    assert "rights are on" in view["changed"]
    assert (await host.run("config", "show", "-o", "json")).json()
    assert (await host.run("config", "set", "grace_s=1")).status == 0
    store = EtcdStore(host.secured.settings(subject(SubjectKind.ROOT)))
    entry = await store.get(KEYS.cluster())
    await store.close()
    assert entry is not None
    assert decode(ClusterConfig, entry.value).record_version == LEVEL


async def test_what_the_admin_gets_is_private(host: Host) -> None:
    await host.init()
    folder = host.config.parent / "pki" / "lab"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"ca.crt": 0o644, "operator.admin.crt": 0o644, "operator.admin.key": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(host.config.stat().st_mode) == 0o600


async def test_once_more_changes_nothing(host: Host) -> None:
    await host.init()
    assert (await host.init()).json()["changed"] == []


class Died(Exception):
    """The process ended here."""


class Mortal(EtcdUsers):
    """Dies after its first change."""

    changes = 0

    async def _ask(self, what: str, method: str, request: Any) -> Any:
        answer = await super()._ask(what, method, request)
        if not method.endswith(("List", "Get", "Authenticate")):
            type(self).changes += 1
            raise Died
        return answer


async def test_an_init_that_dies_anywhere_is_finished(secured: Secured) -> None:
    admin, settings = subject(SubjectKind.OPERATOR, "anna", "admin"), secured.settings(secured.root)
    store = EtcdStore(settings)
    cluster, mortal = Cluster(store, KEYS), Mortal(settings)
    for _ in range(200):
        try:
            await secure(cluster, mortal, admin, new_request())
            break
        except Died:
            continue
    assert Mortal.changes > 80
    found = await mortal.read()
    assert found.roles == {role.name: frozenset(role.rights) for role in cluster_roles(KEYS)}
    assert found.users == {
        "root": frozenset({"root"}),
        "operator.anna": frozenset({"viewer", "operator", "admin"}),
    }
    assert await mortal.enabled()
    await mortal.close()
    await store.close()


async def test_an_etcd_of_another_ca_is_refused(host: Host, tmp_path: Path) -> None:
    answer = await host.init("--dir", str(tmp_path / "ca"))
    assert answer.status == 7
    assert "does not answer to a certificate of the CA" in answer.error()["message"]
    assert "pki issue etcd" in answer.error()["hint"]


async def test_an_etcd_with_other_keys_is_refused(host: Host) -> None:
    store = EtcdStore(host.secured.settings(subject(SubjectKind.ROOT)))
    await store.commit(puts("/other/config/cluster"))
    await store.close()
    answer = await host.init()
    assert answer.status == 4
    assert answer.error()["message"] == "serves something else already: it has the key /other/config/cluster"


async def test_roles_of_another_root_are_refused(host: Host) -> None:
    async with host.secured.users() as users:
        await users.apply(cluster_roles(Keys("/other")))
    answer = await host.init()
    assert answer.status == 4
    assert "belongs to another cluster" in answer.error()["message"]


async def test_a_plaintext_endpoint_is_refused(host: Host) -> None:
    answer = await host.run("cluster", "init", "--endpoint", "http://127.0.0.1:1", "-o", "json")
    assert answer.status == 2
    assert "etcd sees no certificate there" in answer.error()["message"]


async def test_an_etcd_that_demands_no_certificate_is_refused(host: Host) -> None:
    await host.secured.etcd.kill()
    for member in host.secured.etcd.members:
        assert member.tls is not None
        member.tls = EtcdTls(cert=member.tls.cert, key=member.tls.key)
    await host.secured.etcd.start()
    answer = await host.init()
    assert answer.status == 4
    assert "serves clients without a certificate" in answer.error()["message"]
    assert "--client-cert-auth" in answer.error()["hint"]


async def test_a_given_ca_is_used(secured: Secured, tmp_path: Path) -> None:
    host, folder = Host(secured), tmp_path / "new"
    ca = secured.ca.path
    given = ("--dir", str(folder), "--ca-cert", str(ca / "ca.crt"), "--ca-key", str(ca / "ca.key"))
    view = (await host.init(*given)).json()
    assert view["ca_fingerprint"] == secured.ca.authority.fingerprint
    other = CaFolder.make(tmp_path / "other", "x", lambda: datetime.now(UTC))
    given = (*given[:2], "--ca-cert", str(other.path / "ca.crt"), "--ca-key", str(other.path / "ca.key"))
    assert (await host.init(*given)).error()["message"] == "is another one than --ca-cert"


async def test_apply_rights_follows_the_setting(host: Host) -> None:
    await host.init()
    ca = ("--dir", str(host.secured.ca.path), "-o", "json")
    assert (await host.run("cluster", "apply-rights", *ca)).json()["changed"] == []
    assert (await host.run("config", "set", "storage_lost_s=0")).status == 0
    lost = ["role fencer loses /metastack/actual/nodes/ to /metastack/actual/nodes0"]
    assert (await host.run("cluster", "apply-rights", *ca)).json()["changed"] == lost


async def test_a_certificate_makes_a_user(host: Host) -> None:
    await host.init()
    ca, out = ("--dir", str(host.secured.ca.path)), ("--out", str(host.secured.folder / "vera"))
    answer = await host.run("pki", "issue", "operator", "vera", "--role", "viewer", *out, *ca)
    assert answer.status == 0, answer
    assert "user operator.vera gets role viewer" in answer.err
    unreached = ("--endpoint", "https://127.0.0.1:1")
    answer = await host.run("pki", "issue", "service", "monitor", "--host", "m", *out, *ca, *unreached)
    assert answer.status == 0, answer
    assert "service.monitor is not a user of etcd yet" in answer.err
    changed = (await host.run("cluster", "apply-rights", *ca, "-o", "json")).json()["changed"]
    assert changed == ["user service.monitor added", "user service.monitor gets role viewer"]
    async with host.secured.users() as users:
        assert await users.roles_of("operator.vera") == {"viewer"}
