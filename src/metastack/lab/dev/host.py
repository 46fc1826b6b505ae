"""One simulated host: its own network, mounts, name, processes, libvirtd and agent.

Owns: making it, cutting its power, and doing to its services what tests and people want done.
Refuses: knowing about etcd and storage; the agent's configuration is given to it.
Rule: everything on the host is below its init (:mod:`.init`), whose death is the power cut.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metastack.ports import Refused, Unavailable

from . import proc
from .fabric import Fabric, tool_environment
from .proc import MARKER, Proc, wait_for

INIT = Path(__file__).with_name("init.py")

_LIBVIRTD_CONF = """\
host_uuid = "{host_uuid}"
unix_sock_dir = "/run/libvirt"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
listen_tls = 0
listen_tcp = {tcp}
listen_addr = "{address}"
auth_tcp = "none"
keepalive_interval = 5
keepalive_count = 3
log_outputs = "3:stderr"
"""

_QEMU_CONF = """\
{user}security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
{migration}"""


class Host:
    """A node of the cluster. ``fabric`` None: no namespaces, it shares the machine's network."""

    def __init__(
        self, cluster: Path, folder: Path, name: str, number: int, fabric: Fabric | None, short: Path | None
    ) -> None:
        self.cluster = cluster
        self.folder = folder
        self.name = name
        self.number = number
        self.fabric = fabric
        self.run = folder / "run" if fabric else (short or folder) / name
        """Sockets; plain: libvirt's own tree too."""
        self.address = fabric.subnets.node(number) if fabric else "127.0.0.1"

    # --- where things are

    @property
    def libvirt_socket(self) -> Path:
        """libvirtd's socket as anybody on the machine sees it."""
        return self.run / "libvirt" / "libvirt-sock"

    @property
    def libvirt_uri(self) -> str:
        return f"qemu+unix:///{'system' if self.fabric else 'session'}?socket={self.libvirt_socket}"

    @property
    def control(self) -> Path:
        return self.run / "init.sock"

    @property
    def barrier(self) -> Path:
        """The script that restarts libvirtd so that nothing queued in it can land."""
        return self.folder / "barrier"

    @property
    def agent_config(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def boot_id(self) -> Path:
        """Number of this host's boot, as its agent reads it."""
        return self.run / "boot_id"

    @property
    def state(self) -> Path:
        """What a service manager would say of the host."""
        return self.run / "state"

    @property
    def agent_log(self) -> Path:
        return self.folder / "log" / "agent.log"

    @property
    def pid(self) -> int:
        """init's pid outside; 0 when it does not run."""
        try:
            return int((self.folder / "init.pid").read_text())
        except (OSError, ValueError):
            return 0

    def environment(self) -> dict[str, str]:
        """What the host's services see."""
        kept = {k: v for k, v in os.environ.items() if k in ("LANG", "LC_ALL", "HOME", "USER", "LOGNAME")}
        env = {**kept, **tool_environment(), MARKER: str(self.cluster), "METASTACK_DEV_NODE": self.name}
        if not self.fabric:
            env |= {
                "XDG_RUNTIME_DIR": str(self.run),
                "XDG_CONFIG_HOME": str(self.run / "c"),
                "XDG_CACHE_HOME": str(self.folder / "cache"),
                "XDG_DATA_HOME": str(self.folder / "share"),
                "TMPDIR": str(self.run / "tmp"),  # one of the few that libvirt hands on to QEMU
            }
        return env

    # --- life

    def prepare(self) -> None:
        """Write the host's files; what must survive a power cut stays as it is."""
        for part in ("etc", "lib", "log/qemu", "cache", "agent"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        # /run does not survive a power cut.
        shutil.rmtree(self.run, ignore_errors=True)
        (self.run / "libvirt").mkdir(parents=True, mode=0o700)
        (self.run / "tmp").mkdir()
        # Hosts share this machine's kernel: each power-on is a boot of its own.
        self.boot_id.write_text(f"{uuid.uuid4()}\n")
        self.state.write_text("running\n")
        uuid_file = self.folder / "host_uuid"
        if not uuid_file.exists():
            uuid_file.write_text(str(uuid.uuid4()))
        etc = self.folder / "etc" if self.fabric else self.run / "c" / "libvirt"
        etc.mkdir(parents=True, exist_ok=True)
        migration = f'migration_host = "{self.address}"\nmigration_address = "{self.address}"\n'
        values = {
            "migration": migration if self.fabric else "",
            "host_uuid": uuid_file.read_text(),
            "address": self.address,
            "tcp": int(bool(self.fabric)),
            "user": 'user = "root"\ngroup = "root"\n' if self.fabric else "",
        }
        conf = _LIBVIRTD_CONF.format(**values)
        if not self.fabric:
            conf = "\n".join(line for line in conf.splitlines() if not line.startswith("unix_sock")) + "\n"
        (etc / "libvirtd.conf").write_text(conf)
        (etc / "qemu.conf").write_text(_QEMU_CONF.format(**values))
        (etc / "libvirt.conf").write_text("")
        self.barrier.write_text(
            "#!/bin/sh\n# Restarts this node's libvirtd; returns when the new one accepts calls.\n"
            f"exec '{sys.executable}' -I -S '{INIT}' barrier '{self.control}' '{self.libvirt_socket}'\n"
        )
        self.barrier.chmod(0o755)

    def _private_etc(self) -> Path:
        """This host's own /etc: the machine's, with the accounts without which libvirtd does not start.

        A whole folder, not one file bound over /etc/passwd: useradd and apt replace that file by a rename, and
        the kernel then drops every mount on it, in every namespace.
        """
        copy = self.folder / "etcroot"
        subprocess.run(["cp", "-a", "--no-target-directory", "/etc", str(copy)], check=True, timeout=60)
        (copy / "libvirt").mkdir(exist_ok=True)
        for table, line in (
            ("passwd", "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin"),
            ("group", "libvirt-qemu:x:64055:"),
        ):
            text = (copy / table).read_text()
            if not any(row.startswith("libvirt-qemu:") for row in text.splitlines()):
                (copy / table).write_text(text.rstrip("\n") + "\n" + line + "\n")
        return copy

    def power_on(self) -> Proc:
        """Make the host and start its libvirtd; returns its init. Raises Unavailable, with the log."""
        self.prepare()
        pid_file = self.folder / "init.pid"
        pid_file.unlink(missing_ok=True)
        folder = self.folder
        settings = {
            "namespaces": self.fabric is not None,
            "name": self.name,
            "keep": str(self.cluster),
            "pid_file": str(pid_file),
            "socket": str(self.control),
            "binds": {
                **({"/etc": str(self._private_etc())} if self.fabric else {}),
                "/run/libvirt": str(self.run / "libvirt"),
                "/etc/libvirt": str(folder / "etc"),
                "/var/lib/libvirt": str(folder / "lib"),
                "/var/log/libvirt": str(folder / "log"),
                "/var/cache/libvirt": str(folder / "cache"),
            },
        }
        settings_file = folder / "init.json"
        settings_file.write_text(json.dumps(settings, indent=1))
        log = folder / "log" / "init.log"
        argv = [sys.executable, "-I", "-S", str(INIT), str(settings_file)]
        if self.fabric:
            with log.open("ab") as out:
                subprocess.run(
                    argv,
                    env=self.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    cwd="/",
                    start_new_session=True,
                    timeout=20,
                    check=False,
                )
        else:
            proc.spawn(argv, log, self.environment())
        wait_for(self.control.exists, 10.0, lambda: proc.tail(log))
        init = proc.observe(self.pid)
        if init is None:
            raise Unavailable(f"{self.name}: init ended:\n{proc.tail(log)}")
        if self.fabric:
            self.fabric.unplug(self.name)
            self.fabric.plug(self.name, self.number, init.pid)
        self.start_libvirtd()
        return init

    def cut_power(self, init: Proc) -> None:
        """Everything on the host is gone at once, without a word to anybody. Not running is fine."""
        if self.fabric:
            # The cables first, so that no dying socket says goodbye to etcd or Ceph.
            self.fabric.unplug(self.name)
            proc.send(init, signal.SIGKILL)
            wait_for(lambda: not proc.alive(init), 20.0, lambda: f"{self.name}: init {init.pid} still runs")
            return
        # Frozen first, it can neither restart services nor end and so lose its children to somebody else.
        proc.send(init, signal.SIGSTOP)
        while family := proc.descendants(init.pid) if proc.alive(init) else []:
            for one in family:
                proc.send(one, signal.SIGKILL)
            wait_for(lambda rest=family: not any(map(proc.alive, rest)), 20.0, lambda: f"{self.name} lives")  # type: ignore[misc]
        proc.send(init, signal.SIGKILL)
        wait_for(lambda: not proc.alive(init), 20.0, lambda: f"{self.name}: init {init.pid} still runs")

    def enter(self, *argv: str) -> list[str]:
        """The command line that runs ``argv`` inside the host."""
        if not self.fabric:
            return list(argv)
        target = ("--target", str(self.pid), "--mount", "--uts", "--ipc", "--net", "--pid")
        return ["nsenter", *target, "--", *argv]

    # --- services

    def start_libvirtd(self) -> None:
        """Start it and wait until it accepts connections."""
        argv = ["/usr/sbin/libvirtd", "--config"]
        if self.fabric:
            argv += ["/etc/libvirt/libvirtd.conf", "--listen"]
        else:
            argv += [str(self.run / "c" / "libvirt" / "libvirtd.conf")]
        self.start("libvirtd", argv, self.folder / "log" / "libvirtd.log")
        wait_for(
            self._libvirtd_answers,
            30.0,
            lambda: f"{self.name}: libvirtd: {proc.tail(self.folder / 'log' / 'libvirtd.log')}",
        )

    def _libvirtd_answers(self) -> bool:
        # It accepts connections before its drivers are there, and ends when one of them fails.
        if not _accepts(self.libvirt_socket):
            return False
        argv = ["virsh", "-q", "-c", self.libvirt_uri, "list"]
        done = subprocess.run(argv, env=self.environment(), capture_output=True, timeout=30, check=False)
        return done.returncode == 0

    def restart_libvirtd(self) -> None:
        """What the agent's barrier does."""
        subprocess.run([str(self.barrier)], check=True, timeout=60)

    def start_agent(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the agent (again); its init restarts it when it dies."""
        argv = [sys.executable, "-m", "metastack.cli.main", "agent", "run", "--config", str(self.agent_config)]
        self.start("agent", argv, self.agent_log, environment)

    def stop_agent(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the agent; it stays down until :meth:`start_agent`. SIGKILL is the unclean exit."""
        self.stop("agent", how)

    def shut_down(self) -> None:
        """What systemd does of a shutdown: it says so, and stops the agent. The power is cut by the caller."""
        self.state.write_text("stopping\n")
        self.stop_agent()

    def restart_agent(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the agent; init starts the next one at once."""
        self._ask({"op": "restart", "service": "agent", "signal": int(how)})

    def freeze_agent(self) -> None:
        self.signal("agent", signal.SIGSTOP)

    def thaw_agent(self) -> None:
        self.signal("agent", signal.SIGCONT)

    def start(
        self, service: str, argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a supervised service; one that runs already stays."""
        env = {**self.environment(), **(environment or {})}
        self._ask({"op": "start", "service": service, "argv": list(argv), "env": env, "log": str(log)})

    def stop(self, service: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a service for good; returns when it has ended."""
        self._ask({"op": "stop", "service": service, "signal": int(how)})

    def signal(self, service: str, how: signal.Signals) -> None:
        self._ask({"op": "signal", "service": service, "signal": int(how)})

    def services(self) -> dict[str, dict[str, Any]]:
        """What init knows of each service; empty when the host is off. Pids are the host's own."""
        try:
            return self._ask({"op": "status"})
        except Unavailable:
            return {}

    def processes(self, init: Proc) -> list[Proc]:
        """Everything that runs on the host, by pids outside."""
        return [init, *proc.descendants(init.pid)] if proc.alive(init) else []

    def qemu(self, init: Proc) -> list[Proc]:
        """The host's QEMU processes."""
        return [one for one in self.processes(init) if proc.command(one.pid).startswith("qemu-system")]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(40)
                peer.connect(str(self.control))
                peer.sendall(json.dumps(request).encode() + b"\n")
                answer: dict[str, Any] = json.loads(peer.makefile().readline())
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self.name} is off or its init does not answer: {error}") from None
        if "error" in answer:
            raise Refused(f"{self.name}: {answer['error']}")
        return answer


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as peer:
        return peer.connect_ex(str(path)) == 0
