"""What errors and endpoints mean."""

from __future__ import annotations

import grpc
import pytest

from metastack.ports import Broken, Compacted, Denied, LeaseGone, NoSpace, Refused, Unavailable
from metastack.settings import StoreSettings
from metastack.store.etcd.channel import brief, jitter_s, target_of
from metastack.store.etcd.errors import Verdict, judge
from metastack.store.etcd.store import EtcdStore

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "text", "verdict", "error"),
    [
        (Code.UNAVAILABLE, "etcdserver: no leader", Verdict.ELSEWHERE, None),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Verdict.ELSEWHERE, None),
        (
            Code.UNAVAILABLE,
            "failed to connect to all addresses; last error: UNKNOWN: x",
            Verdict.ELSEWHERE,
            None,
        ),
        (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Verdict.ELSEWHERE, None),
        (Code.UNKNOWN, "auth: revision in header is old", Verdict.ELSEWHERE, None),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", Verdict.UNSURE, None),
        (Code.UNAVAILABLE, "Socket closed", Verdict.UNSURE, None),
        (Code.UNAVAILABLE, "etcdserver: request timed out", Verdict.UNSURE, None),
        (
            Code.UNAVAILABLE,
            "etcdserver: request timed out, possibly due to previous leader failure",
            Verdict.UNSURE,
            None,
        ),
        (Code.UNAVAILABLE, "etcdserver: leader changed", Verdict.UNSURE, None),
        (Code.UNAVAILABLE, "etcdserver: server stopped", Verdict.UNSURE, None),
        (Code.UNKNOWN, "context canceled", Verdict.UNSURE, None),
        (Code.INTERNAL, "", Verdict.UNSURE, None),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Verdict.FINAL, NoSpace),
        (
            Code.OUT_OF_RANGE,
            "etcdserver: mvcc: required revision has been compacted",
            Verdict.FINAL,
            Compacted,
        ),
        (Code.NOT_FOUND, "etcdserver: requested lease not found", Verdict.FINAL, LeaseGone),
        (Code.PERMISSION_DENIED, "etcdserver: permission denied", Verdict.FINAL, Denied),
        (Code.INVALID_ARGUMENT, "etcdserver: user name is empty", Verdict.FINAL, Denied),
        (Code.UNAUTHENTICATED, "etcdserver: invalid auth token", Verdict.FINAL, Denied),
        (Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", Verdict.FINAL, Broken),
        (Code.DATA_LOSS, "etcdserver: corrupt cluster", Verdict.FINAL, Unavailable),
    ],
)
def test_judgement(code: grpc.StatusCode, text: str, verdict: Verdict, error: type[Exception] | None) -> None:
    judgement = judge(code, text)
    assert judgement.verdict is verdict
    if error is not None:
        assert judgement.error is error


@pytest.mark.parametrize(
    ("endpoint", "target", "secure"),
    [
        ("http://127.0.0.1:2379", "127.0.0.1:2379", False),
        ("https://etcd.example:2379", "etcd.example:2379", True),
        ("http://[fd00::1]:2379", "[fd00::1]:2379", False),
        ("unix:/run/e/client.sock:0", "unix:/run/e/client.sock:0", False),
        ("unixs:/run/e/tls.sock:0", "unix:/run/e/tls.sock:0", True),
        ("127.0.0.1:2379", "127.0.0.1:2379", False),
        ("[fd00::1]:2379", "[fd00::1]:2379", False),
    ],
)
def test_endpoints(endpoint: str, target: str, secure: bool) -> None:
    assert target_of(endpoint) == (target, secure)


def test_certificates_make_a_bare_endpoint_https() -> None:
    assert target_of("etcd:2379", tls=True) == ("etcd:2379", True)
    assert target_of("http://etcd:2379", tls=True) == ("etcd:2379", False)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "127.0.0.1",
        "http://host",
        "http://host:2379/",
        "http://host:port",
        "unix:relative",
        "ftp://h:1",
        "http://:2379",
    ],
)
def test_endpoints_that_are_none(endpoint: str) -> None:
    with pytest.raises(Refused, match="endpoint"):
        EtcdStore(StoreSettings(endpoints=(endpoint,)))


def test_no_endpoints_and_missing_files_are_named() -> None:
    with pytest.raises(Refused, match="no etcd endpoints"):
        EtcdStore(StoreSettings())


async def test_a_missing_certificate_names_the_file() -> None:
    store = EtcdStore(StoreSettings(endpoints=("https://127.0.0.1:1",), ca="/absent/ca.pem"))
    with pytest.raises(Refused, match=r"/absent/ca\.pem: No such file"):
        await store.get("/k")
    await store.close()


def test_pauses_grow_and_stay_bounded() -> None:
    assert all(0.05 <= jitter_s(1) <= 0.1 for _ in range(50))
    assert all(0.25 <= jitter_s(99) <= 0.5 for _ in range(50))


def test_brief() -> None:
    text = (
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: connect: Connection refused"
    )
    assert brief(text) == "ipv4:127.0.0.1:1: connect: Connection refused"
