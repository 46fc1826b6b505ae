"""Doors of etcd beside gRPC over TLS: its JSON gateway, and a listener without TLS."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import ssl

import pytest
from aetcd import rpc
from management_host import Host

from metastack.core.state.keys import Keys
from metastack.pki.subject import SubjectKind, subject
from metastack.ports import Denied
from metastack.settings import StoreSettings
from metastack.store.etcd.channel import METADATA, Link
from metastack.store.etcd.store import EtcdStore

pytestmark = pytest.mark.etcd
KEYS = Keys()


def asks_gateway(store: StoreSettings, path: str, body: dict[str, object]) -> tuple[int, str]:
    context = ssl.create_default_context(cafile=store.ca)
    context.load_cert_chain(store.cert, store.key)
    connection = http.client.HTTPSConnection(
        store.endpoints[0].removeprefix("https://"), context=context, timeout=5
    )
    connection.request("POST", path, json.dumps(body))
    answer = connection.getresponse()
    found = (answer.status, answer.read().decode())
    connection.close()
    return found


async def test_the_json_gateway_serves_no_certificate(cluster: Host) -> None:
    """It would act as the user of the member's own certificate, which is none."""
    key = base64.b64encode(KEYS.cluster().encode()).decode()
    admin = subject(SubjectKind.OPERATOR, "admin", "admin")
    for store in (cluster.secured.settings(admin), cluster.secured.settings(cluster.secured.root)):
        for path, body in (
            ("/v3/kv/range", {"key": key}),
            ("/v3/kv/put", {"key": key, "value": key}),
            ("/v3/auth/user/add", {"name": "evil", "options": {"no_password": True}}),
        ):
            status, text = await asyncio.to_thread(asks_gateway, store, path, body)
            assert status == 400, path
            assert "CommonName" in text


async def test_a_plaintext_listener_passes_nested_transactions(cluster: Host) -> None:
    """Nobody in particular is refused, but for what these releases of etcd do not look into."""
    store = EtcdStore(StoreSettings(endpoints=cluster.secured.etcd.socket_endpoints), total_timeout_s=2.0)
    with pytest.raises(Denied):
        await store.get(KEYS.cluster())
    inner = rpc.TxnRequest(success=[rpc.RequestOp(request_range=rpc.RangeRequest(key=KEYS.cluster().encode()))])

    async def send(link: Link, timeout_s: float) -> object:
        outer = rpc.TxnRequest(success=[rpc.RequestOp(request_txn=inner)])
        return await link.kv.Txn(outer, timeout=timeout_s, metadata=METADATA)

    try:
        await store._channels.ask("nested", send, twice=True)
        passed = True
    except Denied:
        passed = False
    proof = EtcdStore(cluster.secured.settings(subject(SubjectKind.OPERATOR, "admin", "admin")))
    found = await proof.rights(KEYS.forbidden(), KEYS.cluster())
    assert passed is ("nested" in found.passed)
    await store.close()
    await proof.close()
