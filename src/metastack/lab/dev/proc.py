"""Detached processes that outlive the command which started them.

Owns: starting them, and saying later whether a recorded one is still the same.
Refuses: ending anything by name.
Rule: a process is ours only while boot, pid *and* start time are the recorded ones, or while its environment
carries this cluster's marker; nothing else is ever signalled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from metastack.ports import Unavailable

MARKER = "METASTACK_DEV_CLUSTER"
"""Environment variable of every process of a cluster: the cluster's state folder."""


class Proc(Struct, frozen=True, kw_only=True):
    """A process as it was when recorded."""

    pid: int
    start: int
    """Field 22 of /proc/PID/stat: clock ticks since boot."""
    boot: str
    """The boot in which that holds."""


def boot_id() -> str:
    """Names the running kernel's boot: pids and start times mean nothing in another one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third (state) on; None when there is no such process."""
    try:
        raw = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return raw[raw.rindex(")") + 2 :].split()


def started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it has ended.

    A zombie has ended once no other thread of it is left: after SIGKILL the first thread is a zombie at once,
    while the others still hold the files, and the locks on them, for as long as they take to leave.
    """
    fields = _stat(pid)
    if fields is None or (fields[0] in "ZX" and int(fields[17]) <= 1):
        return None
    return int(fields[19])


def observe(pid: int) -> Proc | None:
    """Record a process; None when it does not run."""
    start = started(pid)
    return None if start is None else Proc(pid=pid, start=start, boot=boot_id())


def alive(proc: Proc) -> bool:
    """True while the recorded process itself runs."""
    return proc.boot == boot_id() and observe(proc.pid) == proc


def rss_kib(pid: int) -> int:
    """Resident memory, KiB; 0 when the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def command(pid: int) -> str:
    """The program's name, for people."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def spawn(argv: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path | None = None) -> Proc:
    """Start a process in a session of its own, without a parent that would have to reap it.

    Raises Unavailable when it ended at once; its output is in ``log``.
    """
    # The shell starts it in the background and leaves: whoever adopts orphans reaps it, not this program.
    script = 'setsid "$@" >>"$METASTACK_LOG" 2>&1 </dev/null & echo $!'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *argv],
        env={**env, "METASTACK_LOG": str(log)},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=10,
    )
    proc = observe(int(done.stdout))
    if proc is None:
        raise Unavailable(f"{argv[0]} ended at once:\n{tail(log)}")
    return proc


def stop(procs: Iterable[Proc], timeout_s: float = 10.0, how: signal.Signals = signal.SIGTERM) -> None:
    """End processes: ask, wait, then kill. Those that are not the recorded ones are left alone."""
    left = [proc for proc in procs if alive(proc)]
    for proc in left:
        send(proc, how)
    deadline = time.monotonic() + timeout_s
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [proc for proc in left if alive(proc)]
    for proc in left:
        send(proc, signal.SIGKILL)
    wait_for(lambda: not any(map(alive, left)), 10.0, lambda: f"processes survive SIGKILL: {left}")


def send(proc: Proc, how: signal.Signals) -> bool:
    """Signal a recorded process; False when it is not there any more.

    Safety: the pidfd names one process; looking at pid and start time after opening it leaves no moment in
    which the number could be somebody else's.
    """
    try:
        fd = os.pidfd_open(proc.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(proc):
            return False
        signal.pidfd_send_signal(fd, how)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


def pids() -> list[int]:
    """Every process that this user can see."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def marked(folder: Path) -> list[Proc]:
    """Every process that carries the cluster's marker (children inherit it), recorded or not.

    QEMU gets a clean environment from libvirt, of which TMPDIR below the folder is the part that is ours.
    """
    marker, temporary = f"{MARKER}={folder}".encode(), f"TMPDIR={folder}/".encode()
    found = []
    for pid in pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = any(entry == marker or entry.startswith(temporary) for entry in environment)
        if ours and pid != os.getpid() and (proc := observe(pid)):
            found.append(proc)
    return found


def parents() -> dict[int, int]:
    """Parent of every process."""
    table = {}
    for pid in pids():
        if fields := _stat(pid):
            table[pid] = int(fields[1])
    return table


def descendants(pid: int) -> list[Proc]:
    """Every living process below a process, at this moment."""
    table = parents()
    family, found = {pid}, []
    grew = True
    while grew:
        more = {child for child, parent in table.items() if parent in family} - family
        family |= more
        found += [proc for child in more if (proc := observe(child))]
        grew = bool(more)
    return found


def wait_for(
    happened: Callable[[], bool], timeout_s: float, seen: Callable[[], str], every_s: float = 0.02
) -> None:
    """Wait until something outside is so; raises Unavailable with what was seen instead."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline:
            raise Unavailable(f"not within {timeout_s:g} s: {seen()}")
        time.sleep(every_s)


def stands_still(pid: int) -> bool:
    """Every thread of the process is stopped."""
    try:
        stats = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return False  # one ended just now: look again
    return all(stat.rpartition(")")[2].split()[0] in "Tt" for stat in stats)


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"({error})"
