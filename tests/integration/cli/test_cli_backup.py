"""``cluster backup`` and ``cluster restore FILE`` as processes, with a real etcd and its own tools."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_program import Program

from metastack.commands.cluster.backup_file import beside
from metastack.core.state.keys import Keys
from metastack.lab.dev.etcd import EtcdCluster
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore

pytestmark = pytest.mark.etcd


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ms-bak-", dir="/tmp"))
    (path / "backups").mkdir()
    yield path
    shutil.rmtree(path)


@asynccontextmanager
async def running(folder: Path, size: int = 1) -> AsyncIterator[tuple[EtcdCluster, Program]]:
    cluster = EtcdCluster.local(folder / "etcd", size)
    await cluster.start()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("METASTACK_", "SUDO_"))}
    try:
        yield cluster, Program({**kept, "METASTACK_ENDPOINTS": ",".join(cluster.endpoints)})
    finally:
        await cluster.kill()


def tool(*words: str) -> str:
    """etcd's own tools."""
    done = subprocess.run(
        words,
        env={**os.environ, "ETCDCTL_API": "3"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


def snapshot_status(file: str) -> dict[str, Any]:
    program = "etcdutl" if shutil.which("etcdutl") else "etcdctl"
    found: dict[str, Any] = json.loads(tool(program, "snapshot", "status", file, "-w", "json"))
    return found


def manifest_of(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(beside(file).read_text())
    return found


async def keys_of(cluster: EtcdCluster) -> dict[str, bytes]:
    store = EtcdStore(StoreSettings(endpoints=cluster.endpoints))
    try:
        return {entry.key: entry.value for entry in (await store.list(Keys().prefix())).entries}
    finally:
        await store.close()


async def test_a_backup_is_whole_private_and_described(folder: Path) -> None:
    async with running(folder) as (_, program):
        await program("project", "create", "web")
        made = (await program("cluster", "backup", "--to", f"{folder}/backups", "-o", "json")).json()
        file = Path(made["file"])
        assert snapshot_status(made["file"])["revision"] == made["revision"] == 2
        assert sorted(path.name for path in file.parent.iterdir()) == [file.name, f"{file.name}.json"]
        assert {path.stat().st_mode & 0o777 for path in file.parent.iterdir()} == {0o600}
        manifest = manifest_of(file)
        assert manifest["counts"] == {"config/projects": 1, "events": 1}
        assert {key: made[key] for key in manifest} == manifest
        checked = (await program("cluster", "backup", "--verify", str(file), "-o", "json")).json()
        assert (checked["sha256"], checked["manifest"]) == (made["sha256"], manifest)
        (event,) = (await program("events", "--object", "cluster", "-o", "json")).json()
        assert event["what"] == "cluster.backup" and str(file) in event["message"]
        found = (await program("doctor", "--no-storage", "-o", "json")).out
        assert "backup" not in {one["check"] for one in json.loads(found)}


async def test_only_the_newest_backups_are_kept(folder: Path) -> None:
    to = folder / "backups"
    of_another, by_hand = to / "metastack-20200101T000000Z-r1.db", to / "mine.db"
    left, orphan = to / ".metastack-20200101T000000Z-r9.db.part", to / "metastack-20200101T000000Z-r9.db.json"
    async with running(folder) as (_, program):
        made = (await program("cluster", "backup", str(by_hand), "-o", "json")).json()
        shutil.copy(by_hand, of_another)
        beside(of_another).write_text(json.dumps({**made, "cluster_id": "another"}))
        left.touch()
        orphan.touch()
        first = (await program("cluster", "backup", "--to", str(to), "--keep", "1", "-o", "json")).json()
        await program("project", "create", "web")
        second = (await program("cluster", "backup", "--to", str(to), "--keep", "1", "-o", "json")).json()
        assert (first["removed"], second["removed"]) == ([], [Path(first["file"]).name])
        stay = {by_hand.name, of_another.name, Path(second["file"]).name}
        assert {path.name for path in to.iterdir()} == stay | {f"{name}.json" for name in stay}


@pytest.mark.parametrize("size", [1, 3, 5])
async def test_every_member_restores_from_one_backup(folder: Path, size: int) -> None:
    backup = folder / "backup.db"
    async with running(folder, size) as (cluster, program):
        await program("project", "create", "web")
        before = await keys_of(cluster)
        assert (await program("cluster", "backup", str(backup))).status == 0
        await program("project", "create", "later")
        await cluster.kill()
        members = ",".join(f"{member.name}={member.peer_url}" for member in cluster.members)
        tokens = set()
        for member in cluster.members:
            data = member.directory.absolute() / "restored"
            answer = await program(
                *("cluster", "restore", str(backup), "--name", member.name, "--initial-cluster", members),
                *("--data-dir", str(data), "-o", "json"),
            )
            view = answer.json()
            assert view["done"] and len(view["next"]) == size - 1 + 4
            member.data_dir, member.token = data, view["token"]
            tokens.add(view["token"])
        assert len(tokens) == 1
        await cluster.start()
        assert await keys_of(cluster) == before


async def test_a_restore_never_touches_what_is_there(folder: Path) -> None:
    backup, data = folder / "backup.db", folder / "new"
    async with running(folder) as (cluster, program):
        await program("cluster", "backup", str(backup))
        line = ("cluster", "restore", str(backup), "--data-dir", str(data), "-o", "json", "--initial-cluster")
        member = f"e1={cluster.members[0].peer_url}"
        alive = (await program(*line, member)).error()
        assert "still answers" in alive["message"] and "systemctl stop etcd" in alive["hint"]
        await cluster.kill()
        shown = (await program(*line, member, "--dry-run")).json()
        assert not shown["done"] and not data.exists() and "snapshot" in shown["command"]
        data.mkdir()
        there = (await program(*line, member)).error()
        assert there["code"] == "conflict" and f"mv {data} {data}.lost" in there["hint"]
        data.rmdir()
        wrong = (await program(*line, "e1=http://127.0.0.1:1,e2=http://127.0.0.1:2")).error()
        assert "2 members" in wrong["message"]
        mixed = (await program(*line, member, "--reason", "x")).error()
        assert "--reason" in mixed["message"]
        with backup.open("r+b") as file:
            file.seek(8192)
            file.write(b"?")
        damaged = (await program(*line, member)).error()
        assert "damaged" in damaged["message"] and not data.exists()


async def test_without_etcds_root_role_a_backup_is_denied(folder: Path) -> None:
    async with running(folder) as (cluster, program):
        for words in ("user add root:secret", "user grant-role root root", "auth enable"):
            tool("etcdctl", f"--endpoints={cluster.endpoints[0]}", *words.split())
        answer = await program("cluster", "backup", "--to", str(folder / "backups"), "-o", "json")
        assert (answer.status, answer.error()["code"]) == (6, "denied")
        assert list((folder / "backups").iterdir()) == []


PAGE = Path(__file__).parents[3] / "docs/guide/backup.md"


def commands_of(title: str) -> list[list[str]]:
    """What a section of the guide tells to type, in its order."""
    part = PAGE.read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"(?ms)^ *```sh\n(.*?)^ *```", part)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


async def test_the_guides_commands_save_and_restore_etcd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on one host after the other; what belongs to systemd is done by the test."""
    monkeypatch.chdir(folder)
    backups = str(folder / "backups")
    async with running(folder, 3) as (cluster, program):
        urls = {f"https://10.0.0.{n}:2380": member.peer_url for n, member in enumerate(cluster.members, 1)}

        def here(words: list[str], member: str = "e1", data: Path = folder) -> list[str]:
            text = "\0".join(words).replace("/var/backups/metastack", backups)
            text = text.replace("/var/lib/etcd/default", str(data)).replace("\0e1\0", f"\0{member}\0")
            for shown, real in urls.items():
                text = text.replace(shown, real)
            return text.split("\0")

        for words in commands_of("Back up"):
            if words[0] == "metastack":
                assert (await program(*here(words)[1:])).status == 0, words
        await program("project", "create", "later")
        shutil.copy("before-the-upgrade.db", "backup.db")
        shutil.copy("before-the-upgrade.db.json", "backup.db.json")
        done: list[str] = []
        for words in commands_of("Restore"):
            match words:
                case ["systemctl", "stop", "etcd"]:
                    await cluster.kill()
                case ["mv", _, _]:
                    assert all(not member.pid for member in cluster.members)
                case ["metastack", "cluster", "restore", "backup.db", *_]:
                    for member in cluster.members:
                        member.data_dir = member.directory.absolute() / "new"
                        answer = await program(*here(words, member.name, member.data_dir)[1:], "-o", "json")
                        member.token = answer.json()["token"]
                case ["ETCDCTL_API=3", *by_hand]:
                    # 3.5's etcdctl has it too; from 3.6 on the page's next line is the one.
                    tool(*here(by_hand, "e1", folder / "by-hand"))
                case ["systemctl", "start", "etcd"]:
                    await cluster.start()
                case ["metastack", *_]:
                    done.append(" ".join(words[1:3]))
                    more = ["--yes"] if "--reason" in words and "restore" in words else []
                    answer = await program(*words[1:], *more)
                    if words[1:3] == ["cluster", "restore"]:
                        assert answer.status == 0, answer
        assert done == ["cluster restore", "cluster restore", "node fence"]
        assert (await program("project", "list", "-o", "name")).out.split() == ["default"]
        (restored,) = [e for e in await events(program) if e["what"] == "cluster.restore"]
        assert restored["message"] == "generation 1"


async def events(program: Program) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await program("events", "-o", "json")).json()
    return found
