"""What the program says when a real etcd refuses: for want of a name, and for want of space."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cli_program import Program
from commands_rig import Rig

from metastack.commands.request import Cluster
from metastack.core.state.keys import Keys
from metastack.core.transaction import Put
from metastack.lab.dev.etcd import EtcdCluster
from metastack.ports import NoSpace
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore

pytestmark = pytest.mark.etcd


@asynccontextmanager
async def etcd(folder: Path) -> AsyncIterator[EtcdCluster]:
    cluster = EtcdCluster.local(folder)
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.kill()


def etcdctl(cluster: EtcdCluster, *args: str) -> str:
    done = subprocess.run(
        ["etcdctl", f"--endpoints={cluster.endpoints[0]}", *args],
        env={**os.environ, "ETCDCTL_API": "3"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


def program_of(cluster: EtcdCluster) -> Program:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("METASTACK_", "SUDO_"))}
    return Program({**kept, "METASTACK_ENDPOINTS": ",".join(cluster.endpoints)})


@pytest.mark.parametrize(
    "command",
    [
        ("vm", "list"),
        ("vm", "list", "--watch"),
        ("vm", "show", "hello"),
        ("project", "create", "web"),
        ("vm", "create", "hello", "--image", "tiny"),
        ("status",),
    ],
    ids=" ".join,
)
async def test_an_etcd_that_wants_a_user_denies(tmp_path: Path, command: tuple[str, ...]) -> None:
    async with etcd(tmp_path / "e") as cluster:
        etcdctl(cluster, "user", "add", "root:secret")
        etcdctl(cluster, "user", "grant-role", "root", "root")
        etcdctl(cluster, "auth", "enable")
        answer = await program_of(cluster)(*command, "-o", "json")
        assert answer.status == 6, answer
        error = answer.error()
        assert (error["code"], error["object"]) == ("denied", "etcd")
        assert "user name is empty" in error["message"]
        assert "certificate" in error["hint"]


async def test_a_full_etcd_can_still_be_read(tmp_path: Path) -> None:
    async with etcd(tmp_path / "e") as cluster:
        store = EtcdStore(StoreSettings(endpoints=cluster.endpoints))
        rig = Rig(Cluster(store, Keys()))
        await rig.image()
        for n in range(5):
            await rig.write(Put(f"/filler/{n}", b"x" * 100_000))
        # Far above its quota from one start to the next: not even a transaction that only reads fits in.
        await cluster.kill()
        for member in cluster.members:
            member.quota_bytes = 64 << 10
            member.spawn()  # it never counts as healthy
        with pytest.raises(NoSpace):
            await rig.write(Put("/filler/5", b"x"))
        program = program_of(cluster)
        for command in (("vm", "create", "hello", "--image", "tiny"), ("project", "create", "web")):
            answer = await program(*command, "-o", "json")
            assert answer.status == 1, answer
            error = answer.error()
            assert (error["code"], error["object"]) == ("failed", "etcd")
            assert "space" in error["message"]
            assert "etcdctl alarm disarm" in error["hint"]
        status = await program("status", "-o", "json")
        assert status.status == 1, status
        said = json.loads(status.out)
        assert not said["ok"]
        assert said["problems"][0].startswith("etcd has raised the alarm NOSPACE: etcd refuses writes")
        for listing in (("vm", "list"), ("image", "list"), ("node", "list")):
            answer = await program(*listing, "-o", "json")
            assert answer.status == 0, answer
        assert [image["name"] for image in (await program("image", "list", "-o", "json")).json()] == ["tiny"]
        assert (await store.list("/filler/")).entries
        await store.close()
