"""Real faults on real etcd: what the store says must be true, and it must say it in time."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from store_backends import etcdctl
from structlog.testing import capture_logs

from metastack.core.transaction import Committed, Delete, Guard, KeyEvent, Put, Transaction
from metastack.lab.dev.etcd import EtcdCluster, EtcdMember, EtcdTls, free_ports
from metastack.ports import Compacted, Denied, LeaseGone, NoSpace, Store, Unavailable, UnknownOutcome
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore

pytestmark = pytest.mark.etcd

SOON_S = 40.0


@asynccontextmanager
async def running(cluster: EtcdCluster) -> AsyncIterator[EtcdCluster]:
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.kill()


@asynccontextmanager
async def client(*endpoints: str, total_timeout_s: float = 5.0, **settings: str) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(StoreSettings(endpoints=endpoints, **settings), total_timeout_s=total_timeout_s)
    try:
        yield store
    finally:
        await store.close()


def write(key: str, value: bytes = b"v", guards: tuple[Guard, ...] = ()) -> Transaction:
    return Transaction(name="test", guards=guards, effects=(Put(key, value),))


async def leader_of(cluster: EtcdCluster, store: EtcdStore) -> EtcdMember:
    for status in await store.status():
        if status.is_leader:
            return next(m for m in cluster.members if m.client_url == status.endpoint)
    pytest.fail("no leader")


async def eventually(what: str, look: Callable[[], Awaitable[object]]) -> object:
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + SOON_S
    seen: object = None
    while loop.time() < deadline_s:
        try:
            seen = await look()
        except Unavailable as error:
            seen = error
        else:
            if seen:
                return seen
        await asyncio.sleep(0.05)
    pytest.fail(f"{what}: never within {SOON_S} s, last seen {seen!r}")


async def elapsed(awaitable: Awaitable[object]) -> tuple[float, object]:
    """Seconds that it took, and what it gave or raised."""
    begun_s = asyncio.get_running_loop().time()
    try:
        result: object = await awaitable
    except Exception as error:
        result = error
    return asyncio.get_running_loop().time() - begun_s, result


class Recorder:
    """A watch read in the background, so that faults can happen under it."""

    def __init__(self, store: Store, prefix: str, after_revision: int) -> None:
        self.events: list[KeyEvent] = []
        self.error: Exception | None = None
        self._task = asyncio.ensure_future(self._read(store, prefix, after_revision))

    async def _read(self, store: Store, prefix: str, after_revision: int) -> None:
        try:
            async for batch in store.watch(prefix, after_revision):
                self.events.extend(batch.events)
        except Exception as error:
            self.error = error

    async def reaches(self, revision: int) -> None:
        async def look() -> bool:
            assert self.error is None, f"the watch ended: {self.error!r}"
            return bool(self.events) and self.events[-1].revision >= revision

        await eventually(f"revision {revision} in the watch", look)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_members_killed_under_load_and_every_answer_was_true(folder: Path) -> None:
    """Each write has a key of its own, so afterwards the store itself says what became of it."""
    told: dict[str, tuple[str, int]] = {}
    numbers = itertools.count()
    stop = asyncio.Event()

    async def writer(store: Store) -> None:
        while not stop.is_set():
            key = f"/w/{next(numbers):06}"
            try:
                outcome = await store.commit(write(key, guards=(Guard(key, "mod", 0),)))
            except UnknownOutcome:
                told[key] = "unknown", 0
            except Unavailable:
                told[key] = "not applied", 0
            else:
                told[key] = type(outcome).__name__, outcome.revision

    async with running(EtcdCluster.local(folder, 3)) as cluster, client(*cluster.endpoints) as store:
        recorder = Recorder(store, "/w/", 0)
        writers = [EtcdStore(StoreSettings(endpoints=cluster.endpoints)) for _ in range(6)]
        async with asyncio.TaskGroup() as group:
            for one in writers:
                group.create_task(writer(one))
            for _ in range(3):
                enough = len(told) + 300

                async def wrote(enough: int = enough) -> bool:
                    return len(told) >= enough

                await eventually(f"{enough} writes", wrote)
                member = await leader_of(cluster, store)
                await member.kill()
                enough = len(told) + 300
                await eventually(f"{enough} writes without {member.name}", lambda n=enough: wrote(n))  # type: ignore[misc]
                await member.start()
            stop.set()
        snapshot = await store.list("/w/")
        there = {e.key: e.mod_revision for e in snapshot.entries}
        await recorder.reaches(max(there.values()))
        await recorder.stop()
        for one in writers:
            await one.close()

    counts = Counter(what for what, _ in told.values())
    applied = sum(1 for key, (what, _) in told.items() if what == "unknown" and key in there)
    print(f"{dict(counts)}, of the unknown ones {applied} were applied")
    for key, (what, revision) in told.items():
        if what == "Committed":
            assert there.get(key) == revision, f"{key} was committed at {revision}"
        if what == "not applied":
            assert key not in there, f"{key} was applied after all"
    assert not [key for key, (what, _) in told.items() if what == "Lost"], "a change met its own first attempt"
    assert [(e.key, e.revision) for e in recorder.events] == sorted(there.items(), key=lambda item: item[1])


async def test_a_stopped_member_costs_one_attempt(folder: Path) -> None:
    async with (
        running(EtcdCluster.local(folder, 3)) as cluster,
        client(*cluster.endpoints) as store,
        client(*cluster.endpoints) as watcher,
    ):
        await store.commit(write("/k"))
        for frozen in cluster.members:
            # Nothing but the watch uses this client: it has to leave the stopped member by itself.
            recorder = Recorder(watcher, "/k", 0)
            await recorder.reaches(1)
            frozen.freeze()
            try:
                async with client(frozen.client_url, *cluster.endpoints) as other:
                    # Whichever endpoint it starts with, two reads meet the stopped one at most once.
                    took_s, result = await elapsed(other.get("/k"))
                    assert not isinstance(result, Exception), result
                    assert took_s < 4.9
                    assert (await elapsed(other.get("/k")))[0] < 1.0
                committed = await eventually("a commit", lambda: store.commit(write("/k")))
                assert isinstance(committed, Committed)
                begun_s = asyncio.get_running_loop().time()
                await recorder.reaches(committed.revision)
                took_s = asyncio.get_running_loop().time() - begun_s
                assert took_s < 8.0, f"the watch noticed after {took_s:.1f} s"
            finally:
                frozen.thaw()
                await recorder.stop()
            await eventually("a healthy member", frozen.healthy)


async def test_a_lease_outlives_a_stopped_member(folder: Path) -> None:
    async with running(EtcdCluster.local(folder, 3)) as cluster, client(*cluster.endpoints) as store:
        lease = await store.grant(5)
        leased = Transaction(name="t", guards=(), effects=(Put("/l", b"", leased=True),), lease=lease.id)
        await store.commit(leased)
        loop = asyncio.get_running_loop()
        member = await leader_of(cluster, store)
        member.freeze()
        try:
            end_s = loop.time() + 8
            while loop.time() < end_s:
                try:
                    lease = await store.renew(lease)
                except Unavailable:
                    assert loop.time() < lease.deadline_s, "the lease could not be renewed in time"
                await asyncio.sleep(0.5)
            assert await store.get("/l") is not None
        finally:
            member.thaw()


async def test_watch_over_restarts_loses_and_repeats_nothing(folder: Path) -> None:
    async with running(EtcdCluster.local(folder)) as cluster:
        member = cluster.members[0]
        async with client(member.socket_endpoint) as store, client(member.client_url) as writer:
            recorder = Recorder(store, "/w/", 0)
            revisions: list[int] = []
            for restart in range(4):
                for n in range(25):
                    outcome = await eventually(
                        "a commit",
                        lambda r=restart, n=n: writer.commit(write(f"/w/{r}/{n}")),  # type: ignore[misc]
                    )
                    assert isinstance(outcome, Committed)
                    revisions.append(outcome.revision)
                await (member.kill() if restart % 2 else member.stop())
                await member.start()
            await recorder.reaches(revisions[-1])
            await recorder.stop()
            assert [e.revision for e in recorder.events] == revisions


async def test_compaction_while_a_watch_is_cut_off(folder: Path) -> None:
    """The watch must not skip over what it missed."""
    async with running(EtcdCluster.local(folder, 3)) as cluster:
        member = cluster.members[0]
        async with client(member.client_url) as store, client(*cluster.endpoints[1:]) as writer:
            first = await writer.commit(write("/w/0"))
            recorder = Recorder(store, "/w/", first.revision - 1)
            await recorder.reaches(first.revision)
            await member.kill()
            last = first
            for n in range(5):
                last = await eventually("a commit", lambda n=n: writer.commit(write(f"/w/{n}")))  # type: ignore[misc,assignment]
            others = EtcdCluster(cluster.members[1:])
            await asyncio.to_thread(etcdctl, others, "compact", "--physical", str(last.revision))
            await member.start()

            async def gone() -> bool:
                return isinstance(recorder.error, Compacted)

            await eventually("Compacted", gone)
            assert [e.revision for e in recorder.events] == [first.revision]


async def test_a_lost_quorum_is_unavailable_in_time(folder: Path) -> None:
    async with (
        running(EtcdCluster.local(folder, 3)) as cluster,
        client(*cluster.endpoints, total_timeout_s=3.0) as store,
    ):
        lease = await store.grant(60)
        await store.commit(write("/k"))
        for member in cluster.members[:2]:
            await member.kill()
        for ask in (store.get("/k"), store.list("/"), store.grant(5), store.renew(lease)):
            took_s, result = await elapsed(ask)
            assert isinstance(result, Unavailable), result
            assert took_s < 3.5
            assert all(endpoint in str(result) for endpoint in cluster.endpoints)
        # By now the member that is left knows that it has no leader, and says so before it takes anything.
        took_s, result = await elapsed(store.commit(write("/never")))
        assert type(result) is Unavailable, result
        assert took_s < 3.5
        for member in cluster.members[:2]:
            member.spawn()
        await eventually("a read", lambda: store.get("/k"))
        assert await store.get("/never") is None


async def test_nobody_there_is_unavailable_in_time_and_names_the_endpoints() -> None:
    ports = free_ports(2)
    endpoints = (*(f"http://127.0.0.1:{port}" for port in ports), "unix:/tmp/absent.sock")
    async with client(*endpoints) as store:
        asks = (store.get("/k"), store.commit(write("/k")))
        for took_s, result in await asyncio.gather(*(elapsed(ask) for ask in asks)):
            assert type(result) is Unavailable, result
            assert took_s < 5.2
            assert all(endpoint in str(result) for endpoint in endpoints)
            assert "Connection refused" in str(result)


async def test_an_outage_shorter_than_the_deadline_is_not_noticed(folder: Path) -> None:
    async with running(EtcdCluster.local(folder)) as cluster, client(*cluster.endpoints) as store:
        await store.commit(write("/k"))
        member = cluster.members[0]
        await member.kill()
        reading = asyncio.ensure_future(store.get("/k"))
        committing = asyncio.ensure_future(store.commit(write("/k", b"after")))
        await member.start(4.0)
        assert await reading is not None
        assert isinstance(await committing, Committed)


async def test_unknown_outcome_is_said_when_it_is_unknown(folder: Path) -> None:
    async with running(EtcdCluster.local(folder)) as cluster, client(*cluster.endpoints) as store:
        member = cluster.members[0]
        before = await store.commit(write("/k", b"before"))
        member.freeze()
        took_s, result = await elapsed(store.commit(write("/k", b"during")))
        assert type(result) is UnknownOutcome, result
        assert took_s < 4.5
        member.thaw()

        # It sat in the socket beside its cancellation: etcd may run it or not, and nobody was told which.
        guards = (Guard("/k", "mod", before.revision),)
        await eventually("a healthy member", member.healthy)
        outcome = await store.commit(write("/k", b"after", guards=guards))
        entry = await store.get("/k")
        assert entry is not None
        assert entry.value == (b"after" if isinstance(outcome, Committed) else b"during")


async def test_a_full_store_says_so_and_still_deletes(folder: Path) -> None:
    async with (
        running(EtcdCluster.local(folder, quota_bytes=4 << 20)) as cluster,
        client(*cluster.endpoints) as store,
    ):
        error: object = None
        async with asyncio.timeout(30):
            # Not a number of writes: etcd learns its size when its backend commits, up to 100 ms later.
            for n in itertools.count():
                _, error = await elapsed(store.commit(write(f"/k/{n}", bytes(1 << 18))))
                if isinstance(error, Exception):
                    break
        assert type(error) is NoSpace, error
        assert [status.alarms for status in await store.status()] == [("NOSPACE",)]
        _, result = await elapsed(store.commit(write("/small")))
        assert type(result) is NoSpace, result
        outcome = await store.commit(Transaction(name="t", guards=(), effects=(Delete("/k/", "/k0"),)))
        assert isinstance(outcome, Committed)
        assert (await store.list("/k/")).entries == ()


async def test_status_of_each_endpoint(folder: Path) -> None:
    async with (
        running(EtcdCluster.local(folder, 3)) as cluster,
        client(*cluster.socket_endpoints, "http://127.0.0.1:1") as store,
    ):
        *up, down = await store.status()
        assert [s.endpoint for s in up] == list(cluster.socket_endpoints)
        assert sum(s.is_leader for s in up) == 1
        assert all(s.version.startswith("3.") and s.db_size_bytes > 0 and not s.error for s in up)
        assert "refused" in down.error


@pytest.fixture
def certificates(folder: Path) -> Path:
    """An authority, a server's certificate, and those of two users."""

    def openssl(*args: str) -> None:
        done = subprocess.run(["openssl", *args], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")  # fmt: skip
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("server", "root", "reader"):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", "ext")  # fmt: skip
    return folder


async def test_a_watch_over_tls_needs_no_second_try(certificates: Path) -> None:
    """The wire brings its own TLS: without it the watch would be gRPC's, after the log said that it broke."""
    tls = EtcdTls(
        cert=certificates / "server.pem", key=certificates / "server.key", client_ca=certificates / "ca.pem"
    )
    files = {"ca": "ca.pem", "cert": "root.pem", "key": "root.key"}
    settings = {name: str(certificates / file) for name, file in files.items()}
    async with running(EtcdCluster.local(certificates, tls=tls)) as cluster:
        by_name = cluster.endpoints[0].replace("127.0.0.1", "localhost")
        by_socket = cluster.members[0].tls_socket_endpoint
        for prefix, endpoint in (("/a/", cluster.endpoints[0]), ("/n/", by_name), ("/s/", by_socket)):
            async with client(endpoint, **settings) as store:
                with capture_logs() as said:
                    recorder = Recorder(store, prefix, 0)
                    for n in range(100):
                        last = await store.commit(write(f"{prefix}{n}", b"x" * 20_000))
                    await recorder.reaches(last.revision)
                    await recorder.stop()
                assert [event.key for event in recorder.events] == [f"{prefix}{n}" for n in range(100)]
                assert not [one for one in said if one["event"] == "watch_broken"], said


async def test_tls_and_what_a_user_may_not_do(certificates: Path) -> None:
    files = {
        name: {
            "ca": str(certificates / "ca.pem"),
            "cert": str(certificates / f"{name}.pem"),
            "key": str(certificates / f"{name}.key"),
        }
        for name in ("root", "reader")
    }
    tls = EtcdTls(
        cert=certificates / "server.pem", key=certificates / "server.key", client_ca=certificates / "ca.pem"
    )
    async with running(EtcdCluster.local(certificates, tls=tls)) as cluster:
        url = cluster.endpoints[0]
        async with client(url, **files["root"]) as root, client(url, **files["reader"]) as reader:
            await root.commit(write("/open/k"))
            await root.commit(write("/shut/k"))

            def ctl(*args: str) -> None:
                flags = [f"--cacert={files['root']['ca']}", f"--cert={files['root']['cert']}",
                         f"--key={files['root']['key']}"]  # fmt: skip
                etcdctl(cluster, *flags, *args)

            for args in (
                ("user", "add", "root:x"),
                ("user", "grant-role", "root", "root"),
                ("user", "add", "reader:x"),
                ("role", "add", "reader"),
                ("role", "grant-permission", "--prefix=true", "reader", "read", "/open/"),
                ("user", "grant-role", "reader", "reader"),
                ("auth", "enable"),
            ):
                await asyncio.to_thread(ctl, *args)
            assert await reader.get("/open/k") is not None
            first = await asyncio.wait_for(anext(aiter(reader.watch("/open/", 0))), SOON_S)
            assert [e.key for e in first.events] == ["/open/k"]
            for ask in (
                reader.get("/shut/k"),
                reader.list("/shut/"),
                reader.commit(write("/open/k")),
                anext(aiter(reader.watch("/shut/", 0))),
            ):
                took_s, result = await elapsed(asyncio.wait_for(ask, SOON_S))
                assert type(result) is Denied, result
                assert took_s < 2.0
            assert isinstance(await root.commit(write("/shut/k")), Committed)
        # A client without a certificate, one that trusts another authority, and one who is nobody (socket).
        for ca, why in (
            ("ca.pem", "demands a client certificate"),
            ("reader.pem", "its certificate is not trusted"),
        ):
            async with client(url, ca=str(certificates / ca), total_timeout_s=2.0) as stranger:
                took_s, result = await elapsed(stranger.get("/open/k"))
                assert type(result) is Unavailable, result
                assert why in str(result)
                assert took_s < 2.5
        async with client(cluster.socket_endpoints[0]) as nobody:
            assert type((await elapsed(nobody.get("/open/k")))[1]) is Denied
            assert type((await elapsed(nobody.commit(write("/open/k"))))[1]) is Denied
            watching = asyncio.wait_for(anext(aiter(nobody.watch("/open/", 0))), SOON_S)
            assert type((await elapsed(watching))[1]) is Denied


async def test_a_lease_lost_behind_our_back(folder: Path) -> None:
    """Revoked by somebody else, and ended while the store was down."""
    async with running(EtcdCluster.local(folder)) as cluster, client(*cluster.endpoints) as store:
        lease = await store.grant(60)
        await asyncio.to_thread(etcdctl, cluster, "lease", "revoke", f"{lease.id:x}")
        with pytest.raises(LeaseGone):
            await store.renew(lease)
        short = await store.grant(2)
        leased = Transaction(name="t", guards=(), effects=(Put("/l", b"", leased=True),), lease=short.id)
        await store.commit(leased)
        await cluster.members[0].kill()
        await cluster.members[0].start()

        async def expired() -> bool:
            return await store.get("/l") is None

        await eventually("expiry after the restart", expired)
        with pytest.raises(LeaseGone):
            await store.renew(short)
