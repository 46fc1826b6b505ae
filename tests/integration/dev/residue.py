"""What a machine looks like from outside: taken before and after a cluster, the two must be equal."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from metastack.lab.dev import proc
from metastack.lab.dev.fabric import tool_environment


def snapshot(folder: Path, *marks: str) -> dict[str, list[str]]:
    """Processes, mounts, network namespaces, links, nft tables, and files below ``folder``.

    Processes and mounts of other programs come and go meanwhile: only those that name ``folder`` or one of
    the marks count. For routes see :func:`routed`.
    """
    marks = (str(folder), *marks)
    processes, spaces = [], set()
    for pid in proc.pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
            space = os.readlink(f"/proc/{pid}/ns/net")
        except OSError:
            continue
        if pid not in (os.getpid(), os.getppid()) and any(mark.encode() in words for mark in marks):
            processes.append(f"{pid} {proc.command(pid)}")
            spaces.add(space)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "processes": processes,
        "namespaces of these": sorted(spaces),
        "mounts": [row for row in mounts if any(mark in row for mark in marks)],
        "links": _links(),
        "nft tables": _said("nft", "list", "tables") if os.geteuid() == 0 else [],
        "files": sorted(str(path) for path in folder.rglob("*") if ".cache" not in path.parts),
        "system folders": sorted(
            str(path)
            for path in (
                Path("/run/netns"),
                Path("/var/lib/libvirt"),
                Path("/var/log/libvirt"),
                Path("/run/libvirt"),
            )
            if path.exists()
        ),
    }


def routed(*subnets: object) -> bool:
    """Whether this machine has a route for any of these subnets. Other clusters have theirs meanwhile."""
    return any(str(subnet) in row for subnet in subnets for row in _said("ip", "route"))


def _links() -> list[str]:
    return [row.split()[0] for row in _said("ip", "-br", "link")]


def _said(*argv: str) -> list[str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=tool_environment())
    return done.stdout.splitlines()
