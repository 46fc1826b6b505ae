"""The command line of a member's restore, for each release of etcd, and what is refused before it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from metastack.commands.cluster.backup_file import Manifest, beside
from metastack.commands.cluster.restore_member import Tool, find_tool, plan_member
from metastack.commands.problem import Problem

BODY = b"etcd" * 1024
THREE = ",".join(f"e{n}=http://127.0.0.1:{n}" for n in (1, 2, 3))
ETCDCTL = Tool("etcdctl", "3.4.23")


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    file = tmp_path / "backup.db"
    file.write_bytes(BODY + hashlib.sha256(BODY).digest())
    return file


def program(folder: Path, name: str, version: str) -> None:
    script = folder / name
    script.write_text(f'#!/bin/sh\necho "{name} version: {version}"\necho "API version: 3"\n')
    script.chmod(0o755)


@pytest.mark.parametrize(
    ("here", "chosen"),
    [
        ({"etcdctl": "3.4.23"}, "etcdctl 3.4.23"),
        ({"etcdctl": "3.5.16", "etcdutl": "3.5.16"}, "etcdutl 3.5.16"),
        ({"etcdctl": "3.6.9", "etcdutl": "3.6.9"}, "etcdutl 3.6.9"),
        ({"etcdctl": "3.6.9"}, ""),
        ({}, ""),
    ],
)
def test_each_release_restores_with_its_own_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: dict[str, str], chosen: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, version in here.items():
        program(tmp_path, name, version)
    if chosen:
        found = find_tool()
        assert f"{found.program} {found.version}" == chosen
    else:
        with pytest.raises(Problem, match="etcdutl: is not installed here") as refused:
            find_tool()
        assert "apt-get install etcd-client" in refused.value.hint


def test_the_command_is_of_this_member(tmp_path: Path, backup: Path) -> None:
    plan = plan_member(backup, THREE, "e2", tmp_path / "data", "", ETCDCTL)
    words = dict(zip(plan.command[4::2], plan.command[5::2], strict=True))
    assert plan.command[:4] == ["etcdctl", "snapshot", "restore", str(backup)]
    assert words["--name"] == "e2"
    assert words["--initial-cluster"] == THREE
    assert words["--initial-advertise-peer-urls"] == "http://127.0.0.1:2"
    assert words["--initial-cluster-token"] == plan.token != "metastack"
    assert [step.split(":")[0] for step in plan.next[:2]] == ["on e1's host", "on e3's host"]
    assert all(plan.token in step for step in plan.next[:2])


def test_each_backup_has_a_token_of_its_own(tmp_path: Path, backup: Path) -> None:
    def token() -> str:
        return plan_member(backup, "e1=http://127.0.0.1:1", "", tmp_path / "data", "", ETCDCTL).token

    first = token()
    assert token() == first
    other = b"else" * 1024
    backup.write_bytes(other + hashlib.sha256(other).digest())
    assert token() != first


@pytest.mark.parametrize(
    ("cluster", "name", "why"),
    [
        ("", "", "is not a member"),
        ("e1", "", "is not a member"),
        ("e1=10.0.0.1:2380", "", "is not a member"),
        ("e1=http://10.0.0.1", "", "is not a member"),
        ("e1=http://127.0.0.1:1,e2=http://127.0.0.1:2", "e1", "names 2 members"),
        (THREE, "", "which of the members"),
        (THREE, "e4", "not in --initial-cluster"),
    ],
)
def test_a_wrong_list_of_members_is_refused(
    tmp_path: Path, backup: Path, cluster: str, name: str, why: str
) -> None:
    with pytest.raises(Problem, match=why) as refused:
        plan_member(backup, cluster, name, tmp_path / "data", "", ETCDCTL)
    assert refused.value.hint


def test_a_backup_of_a_newer_etcd_is_refused(tmp_path: Path, backup: Path) -> None:
    data = backup.read_bytes()
    about = Manifest(
        at="2026-11-29T14:16:27Z",
        by="me",
        metastack="1",
        cluster_id="",
        root="/m",
        etcd="3.5.16",
        revision=1,
        generation=0,
        record_version=2,
        counts={},
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    beside(backup).write_bytes(msgspec.json.encode(about))
    one = "e1=http://127.0.0.1:1"
    with pytest.raises(Problem, match=r"made by etcd 3\.5\.16, and etcdctl here is 3\.4\.23"):
        plan_member(backup, one, "", tmp_path / "data", "", ETCDCTL)
    assert plan_member(backup, one, "", tmp_path / "data", "", Tool("etcdutl", "3.5.1")).revision == 1
