"""Process 1 of a simulated host: makes its namespaces, then supervises its services.

Owns: the host's root as its processes see it, and which services run. Runs as a file with the bare
interpreter (``python -I -S init.py SETTINGS.json``): standard library only, so that it is small.
Refuses: knowing what a service is; it is told over its socket.
Rule: everything on the host is below this process, so killing it is a power cut.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import stat
import sys
import time
from typing import Any

NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x1000, 0x4000, 0x40000, 2
PR_SET_CHILD_SUBREAPER = 36

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    check(
        libc.mount(source.encode(), target.encode(), kind and kind.encode(), flags, data and data.encode()),
        f"mount {source} on {target}",
    )


# --- the host's root: what libvirt has one of on a machine is bound from the host's own folder


def hollow(parent: str) -> None:
    """Make a folder writable for mount points without touching the real one: a tmpfs that binds its entries."""
    real = os.open(parent, os.O_PATH | os.O_DIRECTORY)
    mode = os.fstat(real).st_mode & 0o7777
    entries = [(name, os.lstat(f"/proc/self/fd/{real}/{name}")) for name in os.listdir(parent)]
    mount("tmpfs", parent, "tmpfs", data=f"mode={mode:o}")
    for name, info in entries:
        source, target = f"/proc/self/fd/{real}/{name}", f"{parent}/{name}"
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(source), target)
        elif stat.S_ISDIR(info.st_mode):
            os.mkdir(target, info.st_mode & 0o7777)
            mount(source, target, flags=MS_BIND | MS_REC)
        else:
            os.close(os.open(target, os.O_CREAT, 0o600))
            mount(source, target, flags=MS_BIND)
    os.close(real)


def make_root(settings: dict[str, Any]) -> None:
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    with open("/proc/self/mountinfo") as file:
        rows = [line.split() for line in file]
    for row in reversed(rows):
        # Names of other clusters' network namespaces: kept here they would outlive those clusters.
        if row[row.index("-") + 1] == "nsfs":
            libc.umount2(row[4].encode(), MNT_DETACH)
    keep = os.open(settings["keep"], os.O_PATH)
    mount("tmpfs", "/run", "tmpfs", data="mode=755")
    os.mkdir("/run/lock")
    for target, source in settings["binds"].items():
        if os.path.isdir(source) and not os.path.isdir(target):
            if not os.path.isdir(os.path.dirname(target)):
                raise OSError(f"{os.path.dirname(target)} is missing")
            if not target.startswith("/run/"):
                hollow(os.path.dirname(target))
            os.makedirs(target, exist_ok=True)
        mount(source, target, flags=MS_BIND)
    if not os.path.isdir(settings["keep"]):  # the state folder was below /run
        os.makedirs(settings["keep"])
        mount(f"/proc/self/fd/{keep}", settings["keep"], flags=MS_BIND | MS_REC)
    os.close(keep)
    mount("proc", "/proc", "proc")
    mount("sysfs", "/sys", "sysfs")
    socket.sethostname(settings["name"])


# --- services


class Service:
    def __init__(self, name: str, argv: list[str], env: dict[str, str], log: str) -> None:
        self.name, self.argv, self.env, self.log = name, argv, env, log
        self.pid, self.wanted, self.starts, self.due_s = 0, True, 0, 0.0
        self.ended: int | str | None = None
        self.waiting: list[socket.socket] = []
        """Calls that are answered when the running process has ended."""

    def start(self) -> None:
        log = (1, self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self.pid = os.posix_spawn(
                self.argv[0],
                self.argv,
                self.env,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, *log),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT],
            )
        except OSError as error:
            self.ended, self.wanted = str(error), False
            return
        self.starts += 1
        self.due_s = time.monotonic() + 1.0  # the earliest restart: no busy loop of a service that fails

    def facts(self) -> dict[str, Any]:
        return {"pid": self.pid, "wanted": self.wanted, "starts": self.starts, "ended": self.ended}


class Init:
    def __init__(self, control: socket.socket) -> None:
        self.services: dict[str, Service] = {}
        self.control = control
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ, self.accept)
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(read, selectors.EVENT_READ, lambda fd: os.read(fd, 4096))

    def accept(self, control: socket.socket) -> None:
        peer, _ = control.accept()
        peer.settimeout(5)
        try:
            request = json.loads(peer.makefile().readline())
            answer = self.request(request, peer)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        if answer is not None:
            self.reply(peer, answer)

    def reply(self, peer: socket.socket, answer: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            peer.sendall(json.dumps(answer).encode() + b"\n")
        peer.close()

    def request(self, request: dict[str, Any], peer: socket.socket) -> dict[str, Any] | None:
        operation = request["op"]
        if operation == "status":
            return {name: service.facts() for name, service in self.services.items()}
        name = request["service"]
        if operation == "start":
            service = self.services.get(name)
            if service is None or not service.pid:
                service = Service(name, request["argv"], request["env"], request["log"])
                self.services[name] = service
                service.start()
            service.wanted = service.ended is None or bool(service.pid)
            return service.facts()
        service = self.services[name]
        # stop: stays down. restart: comes back at once. signal: whatever it does to it.
        if operation == "stop":
            service.wanted = False
        elif operation == "restart":
            service.wanted, service.due_s = True, 0.0
        if not service.pid:
            if service.wanted:
                service.start()
            return service.facts()
        os.kill(service.pid, request["signal"])
        if operation == "signal":
            return service.facts()
        service.waiting.append(peer)
        return None

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for service in self.services.values():
                if service.pid == pid:
                    service.pid, service.ended = 0, os.waitstatus_to_exitcode(status)
                    if service.wanted and service.due_s == 0.0:
                        service.start()
                    for peer in service.waiting:
                        self.reply(peer, service.facts())
                    service.waiting = []

    def run(self) -> None:
        while True:
            down = [s for s in self.services.values() if s.wanted and not s.pid]
            wait_s = max(0.0, min(s.due_s for s in down) - time.monotonic()) if down else None
            for key, _ in self.selector.select(wait_s):
                key.data(key.fileobj)
            self.reap()
            for service in self.services.values():
                if service.wanted and not service.pid and service.due_s <= time.monotonic():
                    service.start()


def call(path: str, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the init behind a socket; used by the barrier script."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(30)
        peer.connect(path)
        peer.sendall(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(peer.makefile().readline())
    if "error" in answer:
        raise SystemExit(answer["error"])
    return answer


def barrier(path: str, libvirt_socket: str) -> int:
    """Restart libvirtd so that nothing queued in it can land; returns when the new one accepts calls."""
    # Safety: SIGKILL, not SIGTERM: an orderly end would let queued calls finish. init answers after it has
    # reaped the old process, so what answers on the socket afterwards is the new one.
    call(path, {"op": "restart", "service": "libvirtd", "signal": int(signal.SIGKILL)})
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as peer:
            if peer.connect_ex(libvirt_socket) == 0:
                return 0
        time.sleep(0.01)
    print("libvirtd did not come back within 30 s", file=sys.stderr)
    return 1


def main(arguments: list[str]) -> int:
    if arguments[0] == "barrier":
        return barrier(*arguments[1:])
    with open(arguments[0]) as file:
        settings = json.load(file)
    control = socket.socket(socket.AF_UNIX)
    if settings["namespaces"]:
        check(libc.unshare(NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET), "unshare")
        child = os.fork()
        if child:
            with open(settings["pid_file"] + ".new", "w") as file:
                file.write(str(child))
            os.rename(settings["pid_file"] + ".new", settings["pid_file"])
            os._exit(0)
        os.setsid()
        make_root(settings)
    else:
        # Orphans of the host (QEMU detaches itself) stay below this process.
        check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
        with open(settings["pid_file"] + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(settings["pid_file"] + ".new", settings["pid_file"])
    with contextlib.suppress(FileNotFoundError):
        os.unlink(settings["socket"])
    control.bind(settings["socket"])
    control.listen(16)
    Init(control).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
