"""The control host: Ansible in a Debian 13 root of its own, on the lab's bridge.

Owns: that root, the inventory, and running a playbook of this checkout. ansible-core above 2.19 wants a newer
Python than Debian 12 has, so it is never this machine's own.
Refuses: keeping anything in the root but ansible-lint: a run mounts what it needs where only it sees it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hosts import BASE, HostError, Lab, base_root

CHECKOUT = Path(__file__).parents[2]
LINT = "ansible-lint==26.10.1"

# The root's own pid 1 is a shell: it reaps what ssh leaves behind.
_INSIDE = """
root=$1 lab=$2 checkout=$3; shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mkdir -p "$root$lab" "$root/srv/deploy"
mount --bind "$lab" "$root$lab"
mount --bind "$checkout/deploy" "$root/srv/deploy"
chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 NO_COLOR=1 \\
    ANSIBLE_SSH_CONTROL_PATH_DIR=/tmp/cp.$$ sh -c 'cd /srv/deploy/ansible && exec "$@"' sh "$@"
exit $?
"""


@dataclass(frozen=True)
class Played:
    """What a playbook came to."""

    status: int
    text: str

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """``changed``, ``failed`` … of each host."""
        rows = re.findall(r"^(\w+)\s+: (ok=.*)$", self.text, re.M)
        return {host: {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", row)} for host, row in rows}

    @property
    def changed(self) -> dict[str, int]:
        return {host: counts["changed"] for host, counts in self.recap.items()}


class Control:
    """Runs playbooks against the hosts of a lab."""

    def __init__(self, lab: Lab, inventory: dict[str, Any]) -> None:
        self.lab = lab
        self.root = base_root(BASE, "trixie", "control")
        self.inventory = lab.folder / "inventory.json"
        self.write(inventory)

    def write(self, inventory: dict[str, Any]) -> None:
        """JSON is YAML. The lab's folder has the same path in the root."""
        self.inventory.write_text(json.dumps(inventory, indent=1))

    def run(self, *argv: str, bridge: bool = True, timeout_s: float = 1800.0) -> Played:
        """A command in the root, on the bridge or (for a package from outside) in the machine's own network."""
        prefix = self.lab.prefix if bridge else ()
        self.lab.folder.mkdir(parents=True, exist_ok=True)
        inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-eu", "-c", _INSIDE, "sh"]
        log = self.lab.folder / "control.log"
        with log.open("w") as out:
            done = subprocess.run(
                [*prefix, *inside, str(self.root), str(self.lab.folder), str(CHECKOUT), *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            )
        return Played(done.returncode, log.read_text())

    def play(self, playbook: str, *words: str, check: bool = True, **variables: Any) -> Played:
        """Run a playbook; raises HostError with its end when it fails, unless ``check`` is false."""
        more = ["-e", json.dumps(variables)] if variables else []
        played = self.run("ansible-playbook", "-i", str(self.inventory), playbook, *words, *more)
        (self.lab.folder / f"{playbook}.log").write_text(played.text)
        if check and played.status:
            lines = [line for line in played.text.splitlines() if not line.startswith(("ok:", "TASK"))]
            raise HostError(f"{playbook}: exit {played.status}\n" + "\n".join(lines[-60:]))
        return played

    def lint(self) -> Played:
        """ansible-lint with the profile of deploy/ansible, installed by pip when it is missing."""
        for path in ("resolv.conf", "pip.conf"):
            if os.path.exists(f"/etc/{path}"):
                shutil.copy(f"/etc/{path}", self.root / "etc" / path)
        own = Path("/usr/local/share/ca-certificates")
        if own.is_dir():
            shutil.copytree(own, self.root / str(own)[1:], dirs_exist_ok=True)
        made = self.run(
            "sh", "-euc",
            "update-ca-certificates >/dev/null 2>&1; [ -x /opt/lint/bin/ansible-lint ] || "
            f"{{ python3 -m venv /opt/lint && /opt/lint/bin/pip install -q {LINT}; }}",
            bridge=False,
        )  # fmt: skip
        if made.status:
            raise HostError(f"ansible-lint cannot be installed: {made.text}")
        return self.run("/opt/lint/bin/ansible-lint", "--offline", "--nocolor", bridge=False)


def renamed(bundle: Path, version: str) -> Path:
    """The bundle of this checkout once more, as another version: what an upgrade brings."""
    made = bundle.with_name(f"metastack-{version}-{bundle.name.rsplit('-', 1)[1]}")
    with tempfile.TemporaryDirectory(dir=bundle.parent) as work:
        source = Path(work, "source")
        shutil.copytree(CHECKOUT / "src", source / "src")
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            text = (CHECKOUT / name).read_text(encoding="utf-8")
            (source / name).write_text(re.sub(r'(?m)^version = ".*"', f'version = "{version}"', text))
        module = source / "src/metastack/__init__.py"
        module.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', module.read_text()))
        subprocess.run(["tar", "-xf", str(bundle), "-C", work], check=True, timeout=60)
        old = next(path for path in Path(work).iterdir() if path.name.startswith("metastack-"))
        for wheel in (old / "wheels").glob("metastack-*.whl"):
            wheel.unlink()
        argv = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
        subprocess.run([*argv, "-w", str(old / "wheels"), str(source)], check=True, timeout=300)
        script = f"""
        cd {old}
        wheel=$(ls wheels/metastack-*.whl)
        sum=$(sha256sum "$wheel")
        sed -i '/^metastack==/d' requirements.lock
        echo "metastack=={version} --hash=sha256:${{sum%% *}}" >>requirements.lock
        echo {version} >VERSION
        find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum >../sums
        mv ../sums SHA256SUMS
        cd .. && mv {old.name} metastack-{version} && tar -cf {made} metastack-{version}"""
        subprocess.run(["bash", "-euc", script], check=True, timeout=120)
    return made
