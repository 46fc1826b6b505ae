"""install-node on a small bundle: switched atomically, the version before kept, a half-done run made good."""

from __future__ import annotations

import base64
import hashlib
import mmap
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "deploy/install-node"
UNIT = "metastack-agent.service"


def wheel(folder: Path, version: str) -> Path:
    """A program of three lines in the form that pip installs."""
    info = f"metastack-{version}.dist-info"
    files = {
        "metastack_stub.py": f"def main() -> None:\n    print({version!r})\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: metastack\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nmetastack = metastack_stub:main\n",
    }
    rows = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    path = folder / f"metastack-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def seal(bundle: Path) -> None:
    """The sums of what is in it."""
    files = sorted(path for path in bundle.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    rows = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(bundle)}\n" for path in files
    ]
    (bundle / "SHA256SUMS").write_text("".join(rows))


def make_bundle(folder: Path, version: str) -> Path:
    """What deploy/wheelhouse makes, without the wheels of others."""
    bundle = folder / f"metastack-{version}"
    for name in ("wheels", "share/systemd", "share/man1", "share/completions/bash"):
        (bundle / name).mkdir(parents=True)
    digest = hashlib.sha256(wheel(bundle / "wheels", version).read_bytes()).hexdigest()
    (bundle / "requirements.lock").write_text(f"metastack=={version} --hash=sha256:{digest}\n")
    (bundle / "VERSION").write_text(f"{version}\n")
    (bundle / "share/systemd" / UNIT).write_text(f"# of {version}\n")
    (bundle / "share/man1/metastack.1").write_text(f".TH METASTACK 1 {version}\n")
    (bundle / f"share/man1/metastack-of-{version}.1").write_text(".TH ONLY 1\n")
    shutil.copy(SCRIPT, bundle / "install-node")
    seal(bundle)
    return bundle


class Host:
    """A folder that stands for a node."""

    def __init__(self, root: Path) -> None:
        self.root, self.opt = root, root / "opt/metastack"

    def run(self, script: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [script, *words],
            env={"PATH": os.environ["PATH"], "METASTACK_ROOT": str(self.root)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def install(self, bundle: Path) -> str:
        done = self.run(bundle / "install-node")
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    def refused(self, script: Path, *words: str) -> str:
        done = self.run(script, *words)
        assert done.returncode == 1
        return done.stderr

    def link(self, name: str) -> str:
        return os.readlink(self.opt / name)

    def versions(self) -> list[str]:
        return sorted(path.name for path in self.opt.iterdir() if path.is_dir() and not path.is_symlink())

    def program(self) -> str:
        done = subprocess.run([self.opt / "current/bin/metastack"], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def unit(self) -> str:
        return (self.root / "usr/local/lib/systemd/system" / UNIT).read_text()

    def pages(self) -> list[str]:
        return sorted(path.name for path in (self.root / "usr/local/share/man/man1").iterdir())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


def test_a_bare_host(host: Host, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, "1.0")
    assert host.install(bundle) == "changed"
    assert (host.link("current"), host.program(), host.unit()) == ("1.0", "1.0", "# of 1.0\n")
    assert os.readlink(host.root / "usr/local/bin/metastack") == "/opt/metastack/current/bin/metastack"
    assert (host.root / "etc/metastack/pki").stat().st_mode & 0o777 == 0o700
    assert host.install(bundle) == "unchanged"
    assert "system-site-packages = true" in (host.opt / "1.0/pyvenv.cfg").read_text()


def test_upgrade_keeps_the_version_before(host: Host, tmp_path: Path) -> None:
    for version in ("1.0", "1.1", "1.2"):
        host.install(make_bundle(tmp_path, version))
    assert (host.link("current"), host.link("previous"), host.versions()) == ("1.2", "1.1", ["1.1", "1.2"])
    back = host.run(host.opt / "current/bin/install-node", "--switch", "1.1")
    assert back.stdout.split()[-1] == "changed", back.stderr
    assert (host.link("current"), host.link("previous")) == ("1.1", "1.2")
    assert (host.program(), host.unit()) == ("1.1", "# of 1.1\n")
    assert host.pages() == ["metastack-of-1.1.1", "metastack.1"]
    told = host.run(host.opt / "current/bin/install-node", "--list").stdout.splitlines()
    assert told == ["1.1 current", "1.2 previous"]


def test_current_is_a_link_at_every_moment(host: Host, tmp_path: Path) -> None:
    # What a power cut between making the new link and renaming it leaves.
    host.install(make_bundle(tmp_path, "1.0"))
    os.symlink("9.9", host.opt / "current.new")
    assert host.program() == "1.0"
    host.install(make_bundle(tmp_path, "1.1"))
    assert (host.program(), (host.opt / "current.new").is_symlink()) == ("1.1", False)


def test_a_half_done_installation_is_made_again(host: Host, tmp_path: Path) -> None:
    half = host.opt / "1.0/bin"
    half.mkdir(parents=True)
    (half / "metastack").write_text("half")
    assert host.install(make_bundle(tmp_path, "1.0")) == "changed"
    assert host.program() == "1.0"


def test_a_version_that_still_runs_is_kept(host: Host, tmp_path: Path) -> None:
    for version in ("1.0", "1.1"):
        host.install(make_bundle(tmp_path, version))
    with (host.opt / "1.0/pyvenv.cfg").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        host.install(make_bundle(tmp_path, "1.2"))
        assert host.versions() == ["1.0", "1.1", "1.2"]
    host.install(make_bundle(tmp_path, "1.3"))
    assert host.versions() == ["1.2", "1.3"]


def test_a_damaged_bundle_is_refused(host: Host, tmp_path: Path) -> None:
    host.install(make_bundle(tmp_path, "1.0"))
    bundle = make_bundle(tmp_path, "1.1")
    with (bundle / "wheels/metastack-1.1-py3-none-any.whl").open("ab") as file:
        file.write(b"more")
    assert "the bundle is damaged" in host.refused(bundle / "install-node")
    assert (host.link("current"), host.versions()) == ("1.0", ["1.0"])


def test_a_wheel_of_another_hash_is_refused(host: Host, tmp_path: Path) -> None:
    host.install(make_bundle(tmp_path, "1.0"))
    bundle = make_bundle(tmp_path, "1.1")
    with (bundle / "wheels/metastack-1.1-py3-none-any.whl").open("ab") as file:
        file.write(b"more")
    seal(bundle)
    assert "DO NOT MATCH THE HASHES" in host.refused(bundle / "install-node")
    assert (host.link("current"), host.program()) == ("1.0", "1.0")


def test_another_build_of_the_running_version_is_refused(host: Host, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, "1.0")
    host.install(bundle)
    (bundle / "share/systemd" / UNIT).write_text("# of another build\n")
    seal(bundle)
    assert "holds another build of it" in host.refused(bundle / "install-node")
    assert host.unit() == "# of 1.0\n"


def test_a_version_that_is_not_here_is_refused(host: Host, tmp_path: Path) -> None:
    host.install(bundle := make_bundle(tmp_path, "1.0"))
    assert "version 2.0 is not installed here; there are: 1.0" in host.refused(
        bundle / "install-node", "--switch", "2.0"
    )
