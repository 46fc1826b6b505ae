"""The context file: where it is, what survives a round trip, whose it is."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from metastack import contexts
from metastack.contexts import Context, ContextError, ContextFile
from metastack.settings import StorageSettings, StoreSettings

CEPH = Context(
    name="lab",
    store=StoreSettings(endpoints=("http://127.0.0.1:2379", "unix:/tmp/x"), root="/m", ca='/a "b"\\c\n'),
    storage=StorageSettings(kind="ceph", monitors=("10.0.0.1:6789",), user="admin", timeout_s=2.5),
    netns="ms-lab",
)


@pytest.fixture(autouse=True)
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("METASTACK_CONTEXT", "METASTACK_ENDPOINTS", "METASTACK_ROOT", "SUDO_UID", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "c" / "config.toml"
    monkeypatch.setenv("METASTACK_CONFIG", str(path))
    return path


def test_round_trip_and_mode(config: Path) -> None:
    contexts.save_context(CEPH)
    contexts.save_context(Context(name="b", storage=StorageSettings(directory="/d")), select=False)
    file = contexts.load()
    assert file.current == "lab"
    assert file.contexts["lab"] == CEPH
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    contexts.remove_context("lab")
    assert contexts.load().current == ""
    assert list(contexts.load().contexts) == ["b"]
    contexts.remove_context("nobody")


def test_absent_file_is_empty() -> None:
    assert contexts.load() == ContextFile()
    contexts.remove_context("x")


def test_resolve_order(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ContextError, match="no cluster"):
        contexts.resolve()
    contexts.save_context(CEPH)
    contexts.save_context(Context(name="b", store=StoreSettings(endpoints=("http://b",))), select=False)
    assert contexts.resolve().name == "lab"
    monkeypatch.setenv("METASTACK_CONTEXT", "b")
    assert contexts.resolve().name == "b"
    assert contexts.resolve("lab").name == "lab"
    monkeypatch.setenv("METASTACK_ENDPOINTS", "http://e1, http://e2")
    assert contexts.resolve().store.endpoints == ("http://e1", "http://e2")
    monkeypatch.setenv("METASTACK_ROOT", "/other")
    assert contexts.resolve("", ("http://f",)).store == StoreSettings(endpoints=("http://f",), root="/other")
    with pytest.raises(ContextError) as caught:
        contexts.resolve("nope")
    assert caught.value.missing
    assert "b, lab" in caught.value.hint


def test_endpoints_alone_know_no_storage() -> None:
    contexts.save_context(CEPH)
    context = contexts.resolve("", ("http://elsewhere",))
    assert context.storage is None
    assert context.netns == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [("current = \n", "line 1"), ("[contexts.x]\nnetns = 3", "context x"), ("contexts = 3", "a table")],
)
def test_broken_file_is_named_and_kept(config: Path, text: str, says: str) -> None:
    config.parent.mkdir()
    config.write_text(text)
    with pytest.raises(ContextError, match=says):
        contexts.load()
    with pytest.raises(ContextError):
        contexts.save_context(CEPH)
    assert config.read_text() == text


def test_bad_name_refused() -> None:
    with pytest.raises(ContextError, match="DNS label"):
        contexts.save_context(Context(name="A b"))


def test_two_writers_lose_nothing(config: Path) -> None:
    code = "import sys; from metastack.contexts import *; save_context(Context(name=sys.argv[1]))"
    children = [subprocess.Popen([sys.executable, "-c", code, f"c{n}"]) for n in range(8)]
    assert [child.wait(60) for child in children] == [0] * 8
    assert sorted(contexts.load().contexts) == [f"c{n}" for n in range(8)]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as sudo does")
def test_through_sudo_the_file_is_the_users(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import os, pathlib, pwd
        from metastack import contexts
        home = os.environ["FAKE_HOME"]
        entry = pwd.struct_passwd(("nobody", "x", 65534, 65534, "", home, "/bin/sh"))
        contexts.pwd.getpwuid = lambda uid: entry
        path = contexts.save_context(contexts.Context(name="x"))
        for item in (path, path.parent):
            assert (item.stat().st_uid, item.stat().st_gid) == (65534, 65534), item
        assert path == pathlib.Path(home, ".config/metastack/config.toml")
        assert (os.geteuid(), os.getegid()) == (0, 0)
    """)
    home = Path("/tmp") / f"ms-home-{os.getpid()}"
    home.mkdir()
    os.chown(home, 65534, 65534)
    env = {key: item for key, item in os.environ.items() if key not in ("METASTACK_CONFIG", "HOME")}
    try:
        subprocess.run(
            [sys.executable, "-c", code],
            env={**env, "SUDO_UID": "65534", "SUDO_GID": "65534", "FAKE_HOME": str(home)},
            check=True,
            timeout=60,
        )
    finally:
        subprocess.run(["rm", "-rf", str(home)], check=True)


def test_the_context_before_comes_back() -> None:
    contexts.save_context(CEPH)
    contexts.save_context(Context(name="b"))
    assert contexts.remove_context("b", "lab") == "lab"
    assert contexts.load().current == "lab"
    contexts.save_context(Context(name="b"))
    assert contexts.remove_context("b", "gone") == ""
    assert contexts.load().current == ""
    contexts.select_context("lab")
    contexts.save_context(Context(name="b"), select=False)
    assert contexts.remove_context("b", "elsewhere") == ""
    assert contexts.load().current == "lab", "what is current and stays is left alone"


def test_no_cluster_is_named_says_which_there_are() -> None:
    with pytest.raises(ContextError) as none:
        contexts.resolve()
    assert "metastack dev up" in none.value.hint
    contexts.save_context(CEPH, select=False)
    with pytest.raises(ContextError) as some:
        contexts.resolve()
    assert "there are: lab" in some.value.hint
