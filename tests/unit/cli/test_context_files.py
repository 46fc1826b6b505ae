"""``metastack context add|export|import|remove``: certificates inside, and what is refused."""

from __future__ import annotations

import stat
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from metastack import contexts
from metastack.cli.main import run
from metastack.pki.files import IdentityFiles, write_identity
from metastack.pki.folder import CaFolder
from metastack.pki.subject import SubjectKind, subject

ANNA = subject(SubjectKind.OPERATOR, "anna", "admin")
END = ["--endpoint", "https://10.0.0.1:2379"]


@pytest.fixture(autouse=True)
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("METASTACK_CONTEXT", "METASTACK_ENDPOINTS", "METASTACK_ROOT", "SUDO_UID"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "c" / "config.toml"
    monkeypatch.setenv("METASTACK_CONFIG", str(path))
    return path


def ca_of(tmp_path: Path, name: str = "ca", age: timedelta = timedelta(0)) -> CaFolder:
    return CaFolder.make(tmp_path / name, name, lambda: datetime.now(UTC) - age)


def identity(ca: CaFolder, out: Path, life: timedelta | None = None) -> IdentityFiles:
    made = ca.issue(ANNA, life=life)
    return write_identity(out, "anna", ca.authority.certificate, made.certificate, made.key)


def options(files: IdentityFiles) -> list[str]:
    return ["--ca", str(files.ca), "--cert", str(files.cert), "--key", str(files.key)]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    files, keyring = identity(ca_of(tmp_path), tmp_path / "anna"), tmp_path / "keyring"
    keyring.write_text("[client.anna]\n")
    keyring.chmod(0o600)
    disks = ["--storage", "ceph", "--monitor", "10.0.0.1:6789", "--user", "anna", "--keyring", str(keyring)]
    assert run(["context", "add", "lab", *END, *options(files), *disks]) == 0
    out = tmp_path / "lab.toml"
    assert run(["context", "export", "lab", str(out)]) == 0
    return out


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_context_travels_with_its_secrets(exported: Path) -> None:
    before = contexts.known("lab")
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    assert "PRIVATE KEY" in exported.read_text()
    assert run(["context", "import", str(exported), "--name", "there"]) == 0
    there = contexts.known("there")
    assert contexts.load().current == "there"
    assert (there.store.endpoints, there.store.root) == (before.store.endpoints, before.store.root)
    for name in ("ca", "cert", "key"):
        mine, theirs = Path(getattr(there.store, name)), Path(getattr(before.store, name))
        assert mine != theirs
        assert mine.read_bytes() == theirs.read_bytes()
    assert stat.S_IMODE(Path(there.store.key).stat().st_mode) == 0o600
    assert there.storage is not None
    assert Path(there.storage.keyring).read_text() == "[client.anna]\n"
    assert stat.S_IMODE(Path(there.storage.keyring).stat().st_mode) == 0o600


def test_a_known_name_is_replaced_only_when_asked(exported: Path) -> None:
    assert run(["context", "import", str(exported)]) == 4
    assert run(["context", "import", str(exported), "--replace"]) == 0


def test_an_export_overwrites_nothing(exported: Path) -> None:
    assert run(["context", "export", "lab", str(exported)]) == 4


def test_a_removed_context_leaves_no_key(exported: Path, config: Path) -> None:
    run(["context", "import", str(exported), "--name", "there"])
    assert run(["context", "remove", "there"]) == 2
    assert run(["context", "remove", "there", "--yes"]) == 0
    assert "there" not in contexts.load().contexts
    assert not (config.parent / "pki" / "there").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", ""])
def test_a_name_leaves_no_folder(exported: Path, config: Path, name: str) -> None:
    edited(exported, 'name = "lab"', f'name = "{name}"')
    assert run(["context", "import", str(exported)]) == 2
    assert not (config.parent / "pki").exists()


def expired(tmp_path: Path, exported: Path) -> str:
    old = ca_of(tmp_path, "old", age=timedelta(days=2))
    made = identity(old, tmp_path / "old-anna", life=timedelta(days=1))
    swap(exported, "cert", made.cert)
    swap(exported, "key", made.key)
    swap(exported, "ca", made.ca)
    return "client.crt (operator.anna): expired 8"


def other_ca(tmp_path: Path, exported: Path) -> str:
    swap(exported, "ca", ca_of(tmp_path, "other").path / "ca.crt")
    return "client.crt: is not signed by the CA"


def other_key(tmp_path: Path, exported: Path) -> str:
    swap(exported, "key", identity(ca_of(tmp_path, "b"), tmp_path / "b-anna").key)
    return "client.key: does not belong to client.crt"


def rubbish(tmp_path: Path, exported: Path) -> str:
    exported.write_text("no toml")
    return "is no exported context"


def open_to_others(tmp_path: Path, exported: Path) -> str:
    exported.chmod(0o644)
    return "others may read or change this key"


def swap(exported: Path, field: str, path: Path) -> None:
    old = tomllib.loads(exported.read_text())[field].replace("\n", "\\n")
    edited(exported, old, path.read_text().replace("\n", "\\n"))


@pytest.mark.parametrize("flaw", [expired, other_ca, other_key, rubbish, open_to_others])
def test_a_flawed_file_is_refused_in_one_line(
    tmp_path: Path, exported: Path, config: Path, flaw: object, capsys: pytest.CaptureFixture[str]
) -> None:
    said = flaw(tmp_path, exported)  # type: ignore[operator]
    before = config.read_text()
    capsys.readouterr()
    assert run(["context", "import", str(exported), "--name", "there"]) != 0
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[0]
    assert len(lines) <= 2
    assert config.read_text() == before
    assert not (config.parent / "pki" / "there").exists()


def test_a_flawed_identity_is_not_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = identity(ca_of(tmp_path), tmp_path / "anna")
    other = ca_of(tmp_path, "other").path / "ca.crt"
    assert run(["context", "add", "x", *END, *options(files)[2:], "--ca", str(other)]) == 1
    assert "is not signed by the CA" in capsys.readouterr().err
    assert run(["context", "add", "x", *END, "--cert", str(files.cert)]) == 1
    assert run(["context", "add", "x"]) == 2
    assert contexts.load().contexts == {}


@pytest.mark.parametrize(
    ("words", "add"),
    [
        (["--monitor", "10.0.0.1:6789"], "--storage ceph"),
        (["--user", "anna"], "--storage ceph"),
        (["--directory", "/srv/disks"], "--storage file"),
    ],
)
def test_settings_of_an_unnamed_storage_are_refused(
    words: list[str], add: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["context", "add", "x", *END, *words]) == 2
    assert f"add `{add}`" in capsys.readouterr().err
    assert contexts.load().contexts == {}
