"""Secrets: put, list, delete, rotate; keys that nodes lack; on both stores."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands_rig import Racing, Rig, request
from msgspec.structs import replace

from metastack.agent.report.health import Health
from metastack.agent.session.secret_reader import SecretReader, no_keyring
from metastack.commands.cluster.secret_keys import create_key, remove_key
from metastack.commands.cluster.secrets import (
    delete_secret,
    list_secrets,
    put_secret,
    rotate_secrets,
    show_secret,
)
from metastack.commands.doctor import examine
from metastack.commands.doctor.facts import collect
from metastack.commands.problem import Code, Problem
from metastack.commands.request import Cluster
from metastack.core.model import NodeAlive, Secret
from metastack.core.state.codec import decode, encode
from metastack.core.transaction import Put
from metastack.ports import Denied, Unavailable
from metastack.secrets.envelope import MAX_BYTES
from metastack.secrets.keyring import Keyring

VALUE = b"QmFzZTY0 nobody should see this"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets.key"


def reader(rig: Rig, keyring: Keyring | None, health: Health | None = None) -> SecretReader:
    """An agent's reader over the same store."""
    read = (lambda: keyring) if keyring is not None else no_keyring
    return SecretReader(rig.store, rig.keys, read, health or Health())


async def node(rig: Rig, name: str, *keys: str) -> None:
    """A living node with these keys."""
    await rig.node(name)
    entry = await rig.store.get(rig.keys.node_alive(name))
    assert entry is not None
    alive = replace(decode(NodeAlive, entry.value), secret_keys=keys)
    await rig.write(Put(rig.keys.node_alive(name), encode(alive), leased=True), lease=entry.lease)


async def found(cluster: Cluster) -> list[tuple[str, str]]:
    facts = await collect(cluster, "", datetime.now(UTC))
    return [(f.severity.value, f.object) for f in examine(facts) if f.check == "secret_keys"]


async def test_a_node_reads_what_was_put(rig: Rig, path: Path) -> None:
    keyring = create_key(path)
    view = await put_secret(rig.cluster, request("why"), keyring, "a", VALUE)
    assert (view.key, view.size_bytes, view.by, view.reason) == (
        keyring.newest.id, len(VALUE), "tester@here", "why"
    )  # fmt: skip
    assert [view] == await list_secrets(rig.cluster) == [await show_secret(rig.cluster, "a")]
    assert await reader(rig, keyring).value("a") == VALUE
    await put_secret(rig.cluster, request(), keyring, "a", b"another")
    assert await reader(rig, keyring).value("a") == b"another"


async def test_a_deleted_secret_is_gone(rig: Rig, path: Path) -> None:
    keyring = create_key(path)
    await put_secret(rig.cluster, request(), keyring, "a", VALUE)
    await delete_secret(rig.cluster, request(), "a")
    assert await list_secrets(rig.cluster) == []
    for again in (show_secret(rig.cluster, "a"), delete_secret(rig.cluster, request(), "a")):
        with pytest.raises(Problem) as caught:
            await again
        assert caught.value.code is Code.NOT_FOUND
    with pytest.raises(Denied, match="does not exist"):
        await reader(rig, keyring).value("a")


@pytest.mark.parametrize(
    ("name", "value"), [("A", VALUE), ("a/b", VALUE), ("", VALUE), ("a", b""), ("a", bytes(MAX_BYTES + 1))]
)
async def test_bad_names_and_sizes_are_refused(rig: Rig, path: Path, name: str, value: bytes) -> None:
    with pytest.raises(Problem) as caught:
        await put_secret(rig.cluster, request(), create_key(path), name, value)
    assert caught.value.code is Code.USAGE
    assert await list_secrets(rig.cluster) == []


async def test_a_live_node_without_the_key_stands_in_the_way(rig: Rig, path: Path) -> None:
    old, new = create_key(path), create_key(path)
    await node(rig, "n1", *new.ids)
    await node(rig, "n2", *old.ids)
    await node(rig, "n3")
    with pytest.raises(Problem, match=f"key {new.newest.id}.* n2, n3$") as caught:
        await put_secret(rig.cluster, request(), new, "a", VALUE)
    assert caught.value.code is Code.CONFLICT
    await put_secret(rig.cluster, request(), new, "a", VALUE, force=True)
    assert await found(rig.cluster) == [("warning", "node n2"), ("warning", "node n3")]
    await rig.lose("n2")
    await node(rig, "n3", new.newest.id)
    assert await found(rig.cluster) == []


async def test_doctor_says_what_it_may_not_read(rig: Rig) -> None:
    class Closed(Racing):
        async def list(self, *prefixes: str) -> Any:
            if any("secrets" in prefix for prefix in prefixes):
                raise Denied("etcd: permission denied")
            return await self._store.list(*prefixes)  # type: ignore[attr-defined]

    closed: Any = Closed(rig.store, None, times=0)
    assert await found(Cluster(closed, rig.keys)) == [("info", "cluster")]


async def test_a_rotation_leaves_nothing_under_an_older_key(rig: Rig, path: Path) -> None:
    old = create_key(path)
    for name in ("a", "b"):
        await put_secret(rig.cluster, request("first"), old, name, VALUE)
    before = await show_secret(rig.cluster, "a")
    new, steps = create_key(path), []
    done = await rotate_secrets(rig.cluster, request(), new, told=lambda *step: steps.append(step))
    assert ([view.name for view in done], steps) == (["a", "b"], [(1, 2), (2, 2)])
    after = await show_secret(rig.cluster, "a")
    assert (after.key, after.at, after.reason) == (new.newest.id, before.at, "first")
    only = Keyring((new.newest,))
    assert [await reader(rig, only).value(name) for name in ("a", "b")] == [VALUE, VALUE]
    assert await rotate_secrets(rig.cluster, request(), new) == []


async def test_a_rotation_that_died_is_finished_later(rig: Rig, path: Path) -> None:
    old = create_key(path)
    for name in ("a", "b", "c"):
        await put_secret(rig.cluster, request(), old, name, VALUE)

    async def dies() -> None:
        raise Unavailable("etcd is gone")

    class Dying(Racing):
        async def commit(self, change: Any) -> Any:
            self.left -= 1
            return await (super().commit(change) if self.left < 0 else self._store.commit(change))  # type: ignore[attr-defined]

        left = 1

    new, dying = create_key(path), Dying(rig.store, dies)
    with pytest.raises(Unavailable):
        await rotate_secrets(Cluster(dying, rig.keys), request(), new)  # type: ignore[arg-type]
    keys = [view.key for view in await list_secrets(rig.cluster)]
    assert keys == [new.newest.id, old.newest.id, old.newest.id]
    assert [await reader(rig, new).value(name) for name in ("a", "b", "c")] == [VALUE] * 3
    assert [view.name for view in await rotate_secrets(rig.cluster, request(), new)] == ["b", "c"]


async def test_a_rotation_keeps_what_was_put_meanwhile(rig: Rig, path: Path) -> None:
    old = create_key(path)
    await put_secret(rig.cluster, request(), old, "a", b"first")
    new = create_key(path)

    async def puts() -> None:
        await put_secret(rig.cluster, request(), old, "a", b"second")

    racing: Any = Racing(rig.store, puts)
    assert len(await rotate_secrets(Cluster(racing, rig.keys), request(), new)) == 1
    assert await reader(rig, new).value("a") == b"second"


async def test_a_rotation_keeps_a_deleted_secret_deleted(rig: Rig, path: Path) -> None:
    await put_secret(rig.cluster, request(), create_key(path), "a", VALUE)

    async def deletes() -> None:
        await delete_secret(rig.cluster, request(), "a")

    racing: Any = Racing(rig.store, deletes)
    assert await rotate_secrets(Cluster(racing, rig.keys), request(), create_key(path)) == []
    assert await list_secrets(rig.cluster) == []


async def test_secrets_that_do_not_open_stay_as_they_are(rig: Rig, path: Path, tmp_path: Path) -> None:
    keyring = create_key(path)
    for name in ("a", "b", "c"):
        await put_secret(rig.cluster, request(), keyring, name, VALUE)
    await put_secret(rig.cluster, request(), create_key(tmp_path / "foreign"), "d", VALUE)
    moved = await rig.store.get(rig.keys.secret("a"))
    assert moved is not None
    await rig.write(Put(rig.keys.secret("b"), moved.value), Put(rig.keys.secret("c"), b"{"))
    with pytest.raises(Problem) as caught:
        await rotate_secrets(rig.cluster, request(), create_key(path))
    assert {p.object for p in (caught.value, *caught.value.others)} == {"secret b", "secret c", "secret d"}
    entry = await rig.store.get(rig.keys.secret("b"))
    assert entry is not None and entry.value == moved.value
    for name in ("b", "c", "d"):
        with pytest.raises(Denied, match=f"secret {name}: "):
            await reader(rig, keyring).value(name)


async def test_a_key_in_use_is_not_removed(rig: Rig, path: Path) -> None:
    old = create_key(path)
    await put_secret(rig.cluster, request(), old, "a", VALUE)
    for key_id, code in ((old.newest.id, "encrypts 1 of the secrets, such as a"), ("none", "does not exist")):
        with pytest.raises(Problem, match=code):
            await remove_key(rig.cluster, path, key_id)
    await rotate_secrets(rig.cluster, request(), create_key(path))
    left = await remove_key(rig.cluster, path, old.newest.id)
    assert old.newest.id not in left.ids
    last = create_key(path)
    with pytest.raises(Problem, match="is the newest"):
        await remove_key(rig.cluster, path, last.newest.id)


async def test_a_node_reports_ids_and_no_keys(rig: Rig, path: Path) -> None:
    keyring, health = create_key(path), Health()
    reader(rig, keyring, health).look()
    assert (health.secret_keys, health.keyring_why) == (keyring.ids, "")
    assert keyring.newest.key not in msgspec.json.encode(health.secret_keys)
    reader(rig, None, health).look()
    assert (health.secret_keys, health.keyring_why) == ((), "")


async def test_events_tell_of_secrets_and_of_no_value(rig: Rig, path: Path) -> None:
    await put_secret(rig.cluster, request("why"), create_key(path), "a", VALUE)
    await rotate_secrets(rig.cluster, request(), create_key(path))
    await delete_secret(rig.cluster, request(), "a")
    events = await rig.events()
    assert [event.what for event in events] == ["secret.put", "secret.rotate", "secret.delete"]
    assert not any(VALUE.decode() in repr(event) for event in events)


async def test_a_record_has_no_value(rig: Rig, path: Path) -> None:
    await put_secret(rig.cluster, request(), create_key(path), "a", VALUE)
    entry = await rig.store.get(rig.keys.secret("a"))
    assert entry is not None and VALUE not in entry.value
    assert VALUE not in decode(Secret, entry.value).value
