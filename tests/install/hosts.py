"""Full Debian hosts on one machine: systemd-nspawn, a network namespace each, one bridge between them.

Owns: everything below ``BASE`` (METASTACK_LAB, else /var/tmp/metastack-lab): the cache of packages, the base
roots, and the labs; their namespaces ``ml-LAB`` and ``ml-LAB-HOST``.
Refuses: anybody but root; any address, link or firewall rule of the machine itself.
Rule: a process is ours only while pid and start time are the recorded ones; nothing is ended by name.

    deploy/lab-hosts up h1 h2 h3          # builds the root once, boots, waits for systemd and sshd
    deploy/lab-hosts run h1 systemctl status
    deploy/lab-hosts down

A host has the address 10.91.0.11 and up on eth0, and eth1 without an address on a second bridge, for guests.
Every boot makes both afresh, as hardware would: what an installation adds must bring itself back.
Two labs do not see each other, so both use the same addresses. apt on a host reaches the machine's archive by
a caching mirror on the bridge, and nothing else is reachable.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from mirror import Mirror, upstreams

from metastack.commands.problem import Problem
from metastack.lab import netns
from metastack.lab.dev import proc
from metastack.ports import Unavailable

BASE = Path(os.environ.get("METASTACK_LAB", "/var/tmp/metastack-lab"))
GATE = "10.91.0.1"
"""Address of the lab itself: the mirror, and whatever a test runs beside the hosts."""
MIRROR_PORT = 3142
BOOT_S = 120.0
PROGRAMS = ("mmdebstrap", "systemd-nspawn", "ssh", "ssh-keygen", "ip", "nsenter", "unshare")
BARE = "systemd systemd-sysv dbus libpam-systemd python3 iproute2 openssh-server ca-certificates procps kmod"
KINDS = {
    "bare": BARE,
    # All that the roles install, so that a run which is not about installing need not wait for it.
    "full": f"{BARE} libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils qemu-block-extra"
    " ceph-mon ceph-osd ceph-mgr ceph-common python3-rados python3-rbd python3-libvirt python3-venv"
    " etcd-server etcd-client rsyslog rsyslog-relp rsyslog-gnutls nftables chrony",
    # Not a host: the root in which playbooks run (control.py).
    "control": "ansible-core openssh-client python3-venv ca-certificates git",
}
_CUSTOMIZE = 'rm -f "$1"/etc/ssh/ssh_host_* && echo force-unsafe-io >"$1"/etc/dpkg/dpkg.cfg.d/lab'
_SUPERVISOR = """
lab=$1 ns=$2 name=$3 number=$4 base=$5 folder=$6
mac=$(printf '%02x' "$number")
# A control group of its own: systemd-nspawn makes `payload` in the one it is started in, and two hosts in one
# would end each other's services.
for tree in $CGROUPS; do
    mkdir -p "$tree/$ns"
    echo $$ >"$tree/$ns/cgroup.procs"
done
while :; do
    for wire in 0 1; do ip -n "$lab" link del "$name.$wire" 2>/dev/null || true; done
    ip netns del "$ns" 2>/dev/null || true
    ip netns add "$ns"
    ip -n "$lab" link add "$name.0" master control type veth \\
        peer name eth0 address "02:91:00:00:00:$mac" netns "$ns"
    ip -n "$lab" link add "$name.1" master guests type veth \\
        peer name eth1 address "02:91:00:00:01:$mac" netns "$ns"
    for wire in 0 1; do ip -n "$lab" link set "$name.$wire" up; done
    printf 'link set lo up\\nlink set eth0 up\\nlink set eth1 up\\naddress add 10.91.0.%s/24 dev eth0
route add default via 10.91.0.1\\n' "$number" | ip -n "$ns" -batch -
    status=0
    # The overlay is mounted where only this host sees it: it goes with the host, however that ends.
    unshare --mount --propagation slave sh -eu -c '
        base=$1 folder=$2; shift 2
        mount -t overlay overlay -o "lowerdir=$base,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
        exec "$@"' sh "$base" "$folder" \\
        systemd-nspawn -q -b -D "$folder/root" --hostname="$name" --register=no --keep-unit \\
        --network-namespace-path="/run/netns/$ns" --capability=all --bind=/dev/net/tun \\
        --system-call-filter=bpf --resolv-conf=off --timezone=off --link-journal=no --console=read-only \\
        || status=$?
    [ "$status" = 133 ] || exit "$status"  # 133: it wants to boot again
done
"""


_LEAVE_THE_CLOCK = """\
[Service]
ExecStart=
ExecStart=!/usr/sbin/chronyd $DAEMON_OPTS -x
"""


class Saved(msgspec.Struct, kw_only=True):
    """What a lab remembers from one command to the next."""

    root: str = ""
    hosts: dict[str, int] = {}
    """Last number of the address of each host."""
    processes: dict[str, proc.Proc] = {}
    """Supervisor of each running host, and ``mirror``."""


class HostError(Exception):
    """A host or a command on it did not do what was asked for."""


class Host:
    """One host of a lab, running or not."""

    def __init__(self, lab: Lab, name: str, number: int) -> None:
        self.lab = lab
        self.name = name
        self.number = number
        self.address = f"10.91.0.{number}"
        self.folder = lab.folder / name
        self.netns = f"{lab.netns}-{name}"
        self.console = self.folder / "console.log"

    # --- what runs

    def _supervisor(self) -> proc.Proc | None:
        found = self.lab.load().processes.get(self.name)
        return found if found and proc.alive(found) else None

    @property
    def running(self) -> bool:
        return self._supervisor() is not None

    @property
    def leader(self) -> int:
        """Pid of the host's systemd as this machine sees it; raises HostError while there is none."""
        supervisor = self._supervisor()
        for nspawn in _children(supervisor.pid) if supervisor else ():
            if proc.command(nspawn) == "systemd-nspawn":
                for leader in _children(nspawn):
                    if proc.command(leader) in ("systemd", "init"):
                        return leader
        raise HostError(f"{self.name} does not run: {proc.tail(self.console)}")

    def create(self) -> None:
        """An empty disk over the base root; what the host wrote before is gone."""
        if self.running:
            raise HostError(f"{self.name} runs: power it off before it is wiped")
        shutil.rmtree(self.folder, ignore_errors=True)
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True)
        upper = self.folder / "upper"
        (upper / "etc/ssh").mkdir(parents=True)
        (upper / "root/.ssh").mkdir(parents=True, mode=0o700)
        (upper / "root").chmod(0o700)
        # It fails wherever the kernel has no NVMe over fabrics, and a package of Ceph's brings it along.
        (upper / "etc/systemd/system").mkdir(parents=True)
        (upper / "etc/systemd/system/nvmf-autoconnect.service").symlink_to("/dev/null")
        # The clock is the machine's: a time service on a host looks at it and leaves it alone.
        (upper / "etc/systemd/system/chrony.service.d").mkdir()
        (upper / "etc/systemd/system/chrony.service.d/lab.conf").write_text(_LEAVE_THE_CLOCK)
        (upper / "etc/hostname").write_text(f"{self.name}\n")
        (upper / "etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {self.name}\n")
        key = upper / "etc/ssh/ssh_host_ed25519_key"
        _key(key)
        if not (self.lab.folder / "key").exists():
            _key(self.lab.folder / "key")
        shutil.copy(self.lab.folder / "key.pub", upper / "root/.ssh/authorized_keys")
        self.lab.write_ssh()

    def start(self, wait: bool = True) -> None:
        """Switch on; with ``wait`` return once systemd is `running` and sshd answers."""
        if not self.running:
            if not self.folder.exists():
                self.create()
            root = self.lab.load().root
            argv = ["sh", "-eu", "-c", _SUPERVISOR, "sh", self.lab.netns, self.netns, self.name]
            argv += [str(self.number), root, str(self.folder)]
            started = proc.spawn(argv, self.console, {**_environment(), "CGROUPS": " ".join(_cgroups())})
            with self.lab.saving() as saved:
                saved.processes[self.name] = started
        if wait:
            self.wait_running()

    def wait_running(self, timeout_s: float = BOOT_S, unlike: str = "") -> None:
        """Wait for a boot with another id than ``unlike``; a failed unit raises HostError."""
        deadline = time.monotonic() + timeout_s
        said = ""
        while time.monotonic() < deadline:
            if not self.running:
                raise HostError(f"{self.name} ended: {proc.tail(self.console)}")
            with contextlib.suppress(HostError, subprocess.TimeoutExpired):
                if not unlike or self.boot_id() != unlike:
                    left_s = max(1.0, deadline - time.monotonic())
                    done = self.enter(["systemctl", "is-system-running", "--wait"], timeout_s=left_s)
                    said = done.stdout.strip() or done.stderr.strip()
                    if said == "running" and self.ssh(["true"], check=False, timeout_s=10).returncode == 0:
                        return
            if said == "degraded":
                failed = self.enter(["systemctl", "--failed", "--no-legend", "--plain"]).stdout
                raise HostError(f"{self.name}: units failed:\n{failed}")
            time.sleep(0.1)
        raise HostError(f"{self.name} is not up after {timeout_s:g} s: {said}\n{proc.tail(self.console)}")

    # --- how it ends

    def poweroff(self, timeout_s: float = 90.0) -> None:
        """`systemctl poweroff`, and wait for the end."""
        self.enter(["systemctl", "poweroff"])
        self.wait_off(timeout_s)

    def wait_off(self, timeout_s: float = 90.0) -> None:
        proc.wait_for(
            lambda: not self.running, timeout_s, lambda: f"{self.name} runs: {proc.tail(self.console)}"
        )

    def reboot(self, wait: bool = True) -> None:
        """`systemctl reboot`, and wait for the next boot."""
        before = self.boot_id()
        self.enter(["systemctl", "reboot"])
        if wait:
            self.wait_running(unlike=before)

    def power_cut(self) -> None:
        """Every process of the host ends at once, by SIGKILL; what it wrote to its disk stays."""
        supervisor = self._supervisor()
        if supervisor is None:
            return
        # The supervisor first, else it might boot the host again; then systemd, with which the kernel ends
        # every process of its namespace.
        family = [supervisor, *proc.descendants(supervisor.pid)]
        with contextlib.suppress(HostError):
            leader = proc.observe(self.leader)
            proc.send(supervisor, signal.SIGKILL)
            if leader:
                proc.send(leader, signal.SIGKILL)
        proc.stop(family, how=signal.SIGKILL)

    def wipe(self) -> None:
        """Cut the power and give the host an empty disk: it boots as it came from the shop."""
        self.power_cut()
        self.create()

    # --- stepping in

    def boot_id(self) -> str:
        return self.enter(["cat", "/proc/sys/kernel/random/boot_id"]).stdout.strip()

    def enter(
        self, argv: Sequence[str], timeout_s: float = 60.0, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the host's namespaces, without its network having to work."""
        prefix = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-r", "-w", "--"]
        return subprocess.run(
            [*prefix, *argv], text=True, capture_output=True, timeout=timeout_s, env=_environment(), **more
        )

    def ssh(
        self, argv: Sequence[str], check: bool = True, timeout_s: float = 300.0, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root by ssh; raises HostError with its output when it fails."""
        more.setdefault("capture_output", True)
        done = subprocess.run(
            [*self.lab.prefix, "ssh", "-F", str(self.lab.folder / "ssh_config"), self.name, shlex.join(argv)],
            text=True,
            timeout=timeout_s,
            env=_environment(),
            **more,
        )
        if check and done.returncode:
            raise HostError(
                f"{self.name}: {shlex.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def run(self, script: str, timeout_s: float = 300.0, **more: Any) -> str:
        """Run a script of bash as root by ssh; what it printed."""
        return str(self.ssh(["bash", "-euc", script], timeout_s=timeout_s, **more).stdout)

    def path(self, path: str) -> Path:
        """A file of the running host as this machine reads and writes it."""
        return Path(f"/proc/{self.leader}/root") / path.lstrip("/")

    def put(self, source: Path, target: str) -> None:
        """Copy a file or folder to a path on the host."""
        where = self.path(target)
        where.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, where, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy(source, where)


class Lab:
    """The hosts of one name, and what lies between them."""

    def __init__(self, name: str = "main", base: Path = BASE) -> None:
        if os.geteuid() != 0:
            raise HostError("hosts need root: sudo deploy/lab-hosts …")
        missing = [
            program for program in PROGRAMS if shutil.which(program, path=_environment()["PATH"]) is None
        ]
        if missing:
            raise HostError(f"hosts need {', '.join(missing)}: deploy/lab-hosts list installs what is missing")
        if len(name) > 8 or not name.isalnum():
            raise HostError(f"{name}: the name of a lab is at most 8 letters and digits")
        self.name = name
        self.base = base
        self.folder = base / "labs" / name
        self.netns = f"ml-{name}"
        self.prefix = ("nsenter", f"--net={netns.path_of(self.netns)}", "--")
        """Runs a command on the bridge, beside the hosts."""

    # --- memory

    def load(self) -> Saved:
        try:
            return msgspec.json.decode((self.folder / "lab.json").read_bytes(), type=Saved)
        except FileNotFoundError:
            return Saved()

    @contextlib.contextmanager
    def saving(self) -> Iterator[Saved]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            saved = self.load()
            yield saved
            fresh = self.folder / "lab.json.new"
            fresh.write_bytes(msgspec.json.format(msgspec.json.encode(saved)))
            fresh.rename(self.folder / "lab.json")

    def host(self, name: str) -> Host:
        numbers = self.load().hosts
        if name not in numbers:
            raise HostError(f"no host {name} in lab {self.name}; there are: {', '.join(numbers) or 'none'}")
        return Host(self, name, numbers[name])

    def hosts(self) -> list[Host]:
        return [Host(self, name, number) for name, number in self.load().hosts.items()]

    # --- up and down

    def up(self, names: Sequence[str], suite: str = "trixie", kind: str = "bare") -> list[Host]:
        """Boot hosts of these names, made when they are missing, all at once; returns them ready."""
        root = base_root(self.base, suite, kind)
        with self.saving() as saved:
            if saved.hosts and saved.root != str(root):
                raise HostError(f"lab {self.name} has hosts on {saved.root}: take it down first")
            saved.root = str(root)
            for name in names:
                if not name.isalnum() or len(name) > 12:
                    raise HostError(f"{name}: the name of a host is at most 12 letters and digits")
                free = next(number for number in range(11, 250) if number not in saved.hosts.values())
                saved.hosts.setdefault(name, free)
        self._wire()
        self._serve()
        hosts = [self.host(name) for name in names]
        for host in hosts:
            host.start(wait=False)
        for host in hosts:
            host.wait_running()
        return hosts

    def down(self, names: Sequence[str] = ()) -> None:
        """Cut the power and remove hosts with their disks; without names all of them, and the lab."""
        for host in [self.host(name) for name in names] or self.hosts():
            host.power_cut()
            for wire in (0, 1):
                _run(["ip", "-n", self.netns, "link", "del", f"{host.name}.{wire}"], check=False)
            _run(["ip", "netns", "del", host.netns], check=False)
            _remove_cgroups(host.netns)
            shutil.rmtree(host.folder, ignore_errors=True)
            with self.saving() as saved:
                saved.hosts.pop(host.name, None)
                saved.processes.pop(host.name, None)
        if not names:
            proc.stop(self.load().processes.values())
            _run(["ip", "netns", "del", self.netns], check=False)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _wire(self) -> None:
        """The lab's namespace with its two bridges; what is there stays."""
        if Path(netns.path_of(self.netns)).exists():
            return
        _run(["ip", "netns", "add", self.netns])
        lines = ["link set lo up"]
        for number, bridge in enumerate(("control", "guests")):
            lines += [
                f"link add {bridge} address 02:91:00:00:0{number}:00 type bridge",
                f"link set {bridge} up",
            ]
        lines += [f"address add {GATE}/24 dev control"]
        _run(["ip", "-n", self.netns, "-batch", "-"], input="\n".join(lines) + "\n")
        # A router without a way out says so at once; a mere host would swallow the packets.
        _run([*self.prefix, "sysctl", "-qw", "net.ipv4.ip_forward=1"])

    def _serve(self) -> None:
        """Start the mirror unless it runs."""
        running = self.load().processes.get("mirror")
        if running and proc.alive(running):
            return
        argv = [sys.executable, str(Path(__file__).with_name("mirror.py")), self.netns, GATE, str(MIRROR_PORT)]
        # The machine's own environment: a proxy may stand between it and its archive.
        log = self.folder / "mirror.log"
        started = proc.spawn([*argv, str(self.base / "packages")], log, dict(os.environ))
        with self.saving() as saved:
            saved.processes["mirror"] = started
        proc.wait_for(lambda: self.answers(GATE, MIRROR_PORT), 20, lambda: f"the mirror: {proc.tail(log)}")

    def answers(self, address: str, port: int) -> bool:
        """Something listens there, as seen from the bridge."""
        with contextlib.suppress(OSError), netns.inside(self.netns):
            socket.create_connection((address, port), timeout=2).close()
            return True
        return False

    def write_ssh(self) -> None:
        """Key, known hosts and configuration, so that `ssh -F …/ssh_config HOST` works on the bridge."""
        known = []
        text = ""
        for host in self.hosts():
            key = host.folder / "upper/etc/ssh/ssh_host_ed25519_key.pub"
            if key.exists():
                known.append(f"{host.address} {key.read_text().strip()}\n")
            text += f"Host {host.name}\n  HostName {host.address}\n"
        text += (
            f"Host *\n  User root\n  IdentityFile {self.folder}/key\n  IdentitiesOnly yes\n  BatchMode yes\n"
        )
        text += f"  UserKnownHostsFile {self.folder}/known_hosts\n  ConnectTimeout 5\n  LogLevel ERROR\n"
        (self.folder / "known_hosts").write_text("".join(known))
        (self.folder / "ssh_config").write_text(text)


def base_root(base: Path, suite: str, kind: str) -> Path:
    """The root below every host's disk, built once from the machine's archive: 30 s, or minutes for `full`."""
    root = base / "roots" / f"{suite}-{kind}"
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / f"{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.exists():
            return root
        print(f"building {root}", file=sys.stderr)
        unfinished = root.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            mirror = Mirror(listening, base / "packages", upstreams())
            threading.Thread(target=mirror.serve_forever, daemon=True).start()
            here = f"http://127.0.0.1:{listening.getsockname()[1]}"
            log = root.with_suffix(".log")
            argv = ["mmdebstrap", "--variant=minbase", f"--include={KINDS[kind].replace(' ', ',')}"]
            argv += ["--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/doc/*"]
            argv += ['--aptopt=APT::Install-Recommends "false"', f"--customize-hook={_CUSTOMIZE}"]
            with log.open("w") as out:
                done = subprocess.run(
                    [*argv, suite, str(unfinished), *sources(here, suite)],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=1800, env=_environment(),
                )  # fmt: skip
            mirror.shutdown()
        if done.returncode:
            raise HostError(f"mmdebstrap: exit {done.returncode}: {proc.tail(log)}")
        lists = unfinished / "etc/apt/sources.list.d"
        for old in (*lists.iterdir(), unfinished / "etc/apt/sources.list"):
            old.unlink(missing_ok=True)
        lines = sources(f"http://{GATE}:{MIRROR_PORT}", suite)
        (lists / "lab.list").write_text("\n".join(lines) + "\n")
        unfinished.rename(root)
    return root


def sources(mirror: str, suite: str) -> list[str]:
    """Lines of sources.list for a suite of Debian behind a mirror."""
    return [
        f"deb {mirror}/debian {suite} main",
        f"deb {mirror}/debian {suite}-updates main",
        f"deb {mirror}/debian-security {suite}-security main",
    ]


def _key(path: Path) -> None:
    _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path)])


def _children(pid: int) -> list[int]:
    return [child for child, parent in proc.parents().items() if parent == pid]


def _cgroups() -> list[str]:
    """Roots of the hierarchies that systemd uses: one, or two where version 1 is mounted, too."""
    roots = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
    return [root for root in roots if Path(root, "cgroup.procs").exists()]


def _remove_cgroups(name: str) -> None:
    for root in _cgroups():
        for folder, _, _ in os.walk(Path(root, name), topdown=False):
            with contextlib.suppress(OSError):  # the kernel lets go of the last process a little later
                os.rmdir(folder)


def _environment() -> dict[str, str]:
    keep = {name: os.environ[name] for name in ("HOME", "TERM", "SSH_AUTH_SOCK") if name in os.environ}
    return {
        **keep,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "SYSTEMD_PAGER": "",  # nor colours: a test reads what is printed
        # The host may set its own network's sysctls, and none that it shares with this machine.
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
        # As on Debian 13, whatever this machine mounts.
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    }


def _run(argv: Sequence[str], check: bool = True, **more: Any) -> str:
    done = subprocess.run(argv, text=True, capture_output=True, timeout=60, env=_environment(), **more)
    if check and done.returncode:
        raise HostError(f"{shlex.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deploy/lab-hosts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lab", default="main", help="Name of the lab.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="Boot hosts, made when they are missing.")
    up.add_argument("hosts", nargs="+")
    up.add_argument("--suite", default="trixie", choices=("trixie", "bookworm"))
    up.add_argument(
        "--kind", default="bare", choices=("bare", "full"), help="bare, or full: packages installed."
    )
    for name, text in (
        ("down", "Remove hosts with their disks; without names all, and the lab."),
        ("poweroff", "Shut hosts down and wait."),
        ("start", "Boot hosts that are off."),
        ("reboot", "Reboot hosts and wait until they are up."),
        ("power-cut", "Kill every process of hosts at once."),
        ("wipe", "Cut the power and give hosts an empty disk."),
    ):
        verbs.add_parser(name, help=text).add_argument("hosts", nargs="*" if name == "down" else "+")
    for name, text in (
        ("run", "Run a command on a host, as root by ssh; without one a shell."),
        ("enter", "Run a command in a host without its network; without one a shell."),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("host")
        verb.add_argument("command", nargs=argparse.REMAINDER)
    beside = verbs.add_parser("beside", help="Run a command on the bridge, beside the hosts.")
    beside.add_argument("command", nargs=argparse.REMAINDER)
    put = verbs.add_parser("put", help="Copy a file or folder to a running host.")
    put.add_argument("host")
    put.add_argument("source", type=Path)
    put.add_argument("target")
    verbs.add_parser("list", help="Show hosts, addresses and what runs.")
    return parser


def main(words: Sequence[str]) -> int:
    """The command; its exit status is that of the command it ran on a host."""
    asked = _arguments().parse_args(words)
    lab = Lab(asked.lab)
    if asked.verb == "up":
        lab.up(asked.hosts, asked.suite, asked.kind)
    elif asked.verb == "down":
        lab.down(asked.hosts)
    elif asked.verb == "list":
        for host in lab.hosts():
            print(host.name, host.address, f"leader {host.leader}" if host.running else "off", host.folder)
    elif asked.verb == "run":
        ssh = [*lab.prefix, "ssh", "-F", str(lab.folder / "ssh_config"), lab.host(asked.host).name]
        return subprocess.call([*ssh, *([shlex.join(asked.command)] if asked.command else ["-t"])])
    elif asked.verb == "enter":
        leader = str(lab.host(asked.host).leader)
        return subprocess.call(["nsenter", "-t", leader, "-a", "-r", "-w", "--", *(asked.command or ["bash"])])
    elif asked.verb == "beside":
        return subprocess.call([*lab.prefix, *(asked.command or ["bash"])])
    elif asked.verb == "put":
        lab.host(asked.host).put(asked.source, asked.target)
    else:
        for name in asked.hosts:
            getattr(lab.host(name), asked.verb.replace("-", "_"))()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (HostError, Unavailable, Problem) as error:
        sys.exit(f"error: {error}")
