"""``metastack dev``: which cluster a verb without ``--name`` means, and its exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metastack import contexts
from metastack.cli.main import run
from metastack.contexts import Context
from metastack.lab.dev.layout import Layout, State


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("METASTACK_CONTEXT", "METASTACK_ENDPOINTS", "METASTACK_ROOT", "SUDO_UID", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("METASTACK_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("METASTACK_DEV_STATE", str(tmp_path / "dev"))
    return tmp_path


def cluster(name: str) -> None:
    """A cluster of which nothing runs, its context selected."""
    layout = Layout(name)
    layout.folder.mkdir(parents=True)
    state = State(name=name, mode="plain", storage="file", index=-1, nodes=["n1"], etcd=1, lease_ttl_s=5)
    state.previous_context = contexts.load().current
    layout.save(state)
    contexts.save_context(Context(name=name))


def test_the_current_contexts_cluster_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    cluster("dev")
    cluster("two")
    assert run(["dev", "kill-node", "n1"]) == 0
    assert capsys.readouterr().err == "two: n1: already off\n"
    assert run(["--context", "dev", "dev", "kill-node", "n1"]) == 0
    assert capsys.readouterr().err == "dev: n1: already off\n"
    assert run(["dev", "kill-node", "n1", "--name", "dev"]) == 0
    assert capsys.readouterr().err == "dev: n1: already off\n"
    contexts.save_context(Context(name="elsewhere"))
    assert run(["dev", "kill-node", "n1"]) == 0
    assert capsys.readouterr().err == "dev: n1: already off\n"


def test_down_says_what_goes_and_what_is_current_again(capsys: pytest.CaptureFixture[str]) -> None:
    cluster("dev")
    cluster("two")
    assert run(["dev", "down"]) == 2, "nobody can answer without a terminal"
    asked = capsys.readouterr().err
    assert "Remove cluster two: 1 node (n1), every VM, disk and image" in asked
    assert "confirm with --yes" in asked
    assert Layout("two").folder.exists()
    assert run(["dev", "down", "-o", "json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage"
    assert run(["dev", "down", "--yes"]) == 0
    said = capsys.readouterr().err
    assert "two: takes away 1 node (n1)" in said
    assert "the current context is dev again" in said
    assert contexts.load().current == "dev"
    assert Layout("dev").folder.exists()
    assert not Layout("two").folder.exists()


def test_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dev", "up", "--name", "Bad Name"]) == 2
    assert "DNS label" in capsys.readouterr().err
    assert run(["dev", "status"]) == 3
    cluster("two")
    assert run(["dev", "status", "--name", "three"]) == 3
    assert "two" in capsys.readouterr().err, "it says which there are"
    assert run(["dev", "cut", "n7"]) == 3
    assert run(["dev", "cut", "n1"]) == 1
