"""The units: systemd reads them, their exposure is the documented one, and each directive has its reason."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
UNITS = sorted((TOP / "deploy/systemd").glob("*.service"))
TIMERS = sorted((TOP / "deploy/systemd").glob("*.timer"))
PAGE = (TOP / "docs/reference/hardening.md").read_text()
FIGURES = {
    name: float(figure) for name, figure in re.findall(r"\| `(metastack-[\w-]+\.service)` \| ([\d.]+) ", PAGE)
}
SANDBOX = re.compile(
    r"UMask|NoNewPriv|Capabil|Restrict[A-Z]|Protect|Private|Keyring|Device|SystemCall|LockPers|MemoryDeny|"
    r"Inaccessible|ReadWritePaths|DynamicUser|ProcSubset"
)
RESTART = re.compile(r"RestartPrevent|RuntimeDirectory")
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
FOR_NAMESPACES = {
    r"CapabilityBoundingSet=.*": r"\g<0> CAP_NET_ADMIN CAP_SYS_ADMIN",
    r"RestrictNamespaces=yes": "RestrictNamespaces=net mnt",
    r"SystemCallFilter=@system-service": r"\g<0> @mount",
}


def directives(unit: Path) -> set[str]:
    """Names of the sandbox's directives in a unit."""
    names = re.findall(r"(?m)^(\w+)=", unit.read_text())
    return {name for name in names if SANDBOX.match(name) and not RESTART.match(name)}


def analyze(*words: str) -> str:
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def exposure(unit: Path) -> float:
    found = re.search(
        r"exposure level for \S+ ([\d.]+)", analyze("security", "--no-pager", "--offline=true", str(unit))
    )
    assert found is not None
    return float(found[1])


@needs_systemd
@pytest.mark.parametrize("unit", [*UNITS, *TIMERS], ids=lambda unit: unit.name)
def test_systemd_reads_the_unit(unit: Path) -> None:
    told = analyze("verify", "--man=no", "--generators=no", str(unit)).splitlines()
    # The programs are not installed on a machine that tests.
    assert [line for line in told if unit.name in line and "is not executable" not in line] == []


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_exposure_is_the_documented_one(unit: Path) -> None:
    assert exposure(unit) <= FIGURES[unit.name] <= 5.0


@needs_systemd
def test_exposure_of_an_agent_with_namespaces(tmp_path: Path) -> None:
    unit = tmp_path / "metastack-agent.service"
    text = (TOP / "deploy/systemd/metastack-agent.service").read_text()
    for old, new in FOR_NAMESPACES.items():
        text, count = re.subn(f"(?m)^{old}", new, text)
        assert count == 1
    unit.write_text(text)
    documented = re.search(r"With these the figure is ([\d.]+)", PAGE)
    assert documented is not None
    assert exposure(unit) <= float(documented[1]) <= 5.0


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("The agent", "metastack-agent"),
        ("The etcd gateway", "metastack-etcd-gateway"),
        ("pki serve", "metastack-pki"),
        ("The backup", "metastack-backup"),
    ],
)
def test_each_directive_has_a_reason(title: str, name: str) -> None:
    part = PAGE.split(f"## {title}\n")[1].split("\n## ")[0].split("What could not be taken")[0]
    explained = set()
    for row in re.findall(r"(?m)^\| (`.*?) \|", part):
        explained |= set(re.findall(r"`(\w+)=", row))
    assert explained == directives(TOP / f"deploy/systemd/{name}.service")


def test_the_agent_has_no_mounts_of_its_own() -> None:
    hiding = re.compile(
        r"Protect(System|Home|Proc|Kernel|Control)|Private|ProcSubset|ReadOnly|Inaccessible|BindPaths"
    )
    unit = TOP / "deploy/systemd/metastack-agent.service"
    assert [name for name in directives(unit) if hiding.match(name)] == []


@pytest.mark.parametrize(
    "line",
    [
        "Type=notify",
        "WatchdogSec=60",
        "Restart=always",
        "RestartPreventExitStatus=2",
        "KillMode=mixed",
        "RuntimeDirectoryPreserve=yes",
        "TimeoutStartSec=infinity",
    ],
)
def test_the_agent_and_its_guests_survive(line: str) -> None:
    assert line in (TOP / "deploy/systemd/metastack-agent.service").read_text().splitlines()


UNDER_THE_UNIT = """
import os, socket, sys
socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
print("packets", open(sys.argv[1]).read())
for name, act in {
    "chown": lambda: os.chown(sys.argv[1], 1, 1),
    "hostname": lambda: socket.sethostname(socket.gethostname()),
    "chroot": lambda: os.chroot("/"),
    "setuid": lambda: os.setuid(1),
}.items():
    try:
        act()
        print("may", name)
    except PermissionError:
        print("may not", name)
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_the_agents_capabilities_suffice_and_end_there(tmp_path: Path) -> None:
    unit = (TOP / "deploy/systemd/metastack-agent.service").read_text()
    granted = re.search(r"(?m)^CapabilityBoundingSet=(.*)$", unit)
    assert granted is not None
    bounds = ",".join("+" + name.removeprefix("CAP_").lower() for name in granted[1].split())
    foreign = tmp_path / "of-another-user"
    foreign.write_text("read")
    foreign.chmod(0o600)
    os.chown(foreign, 64055, 64055)
    done = subprocess.run(
        [
            *("setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set=-all,{bounds}"),
            *(sys.executable, "-c", UNDER_THE_UNIT, str(foreign)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "packets read",
        "may not chown",
        "may not hostname",
        "may not chroot",
        "may not setuid",
    ]


def test_a_wrong_setting_ends_the_agent_for_good(tmp_path: Path) -> None:
    text = (TOP / "deploy/systemd/metastack-agent.service").read_text()
    command = re.search(r"(?m)^ExecStart=/opt/metastack/current/bin/metastack (.*)$", text)
    kept_down = re.search(r"(?m)^RestartPreventExitStatus=(\d+)$", text)
    assert command is not None
    assert kept_down is not None
    (tmp_path / "agent.toml").write_text("no_such_setting = 1\n")
    words = command[1].replace("/etc/metastack", str(tmp_path)).split()
    done = subprocess.run(
        [Path(sys.executable).parent / "metastack", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "no_such_setting" in done.stderr) == (int(kept_down[1]), True), done.stderr


def test_a_missed_backup_is_made_up_for() -> None:
    lines = (TOP / "deploy/systemd/metastack-backup.timer").read_text().splitlines()
    assert {"OnCalendar=daily", "Persistent=yes", "WantedBy=timers.target"} <= set(lines)
    assert any(line.startswith("RandomizedDelaySec=") for line in lines)
