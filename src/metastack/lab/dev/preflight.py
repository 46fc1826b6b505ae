"""What this machine can do: which mode and storage a cluster gets, and what is lacking for more.

Owns: looking, and saying why. Refuses: changing anything, and guessing: namespaces are tried, not assumed.
Rule: what was asked for by name is refused when it cannot be had; only defaults give way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from msgspec import Struct

from metastack.ports import Refused

from .fabric import tool_environment
from .layout import Mode

_SBIN = "/usr/sbin:/usr/bin:/sbin:/bin"
_ALWAYS = {
    "etcd": "etcd-server",
    "etcdctl": "etcd-client",
    "virsh": "libvirt-clients",
    "libvirtd": "libvirt-daemon libvirt-daemon-driver-qemu",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "setsid": "util-linux",
}
_NAMESPACES = {
    "ip": "iproute2",
    "nft": "nftables",
    "dnsmasq": "dnsmasq-base",
    "nsenter": "util-linux",
    "unshare": "util-linux",
}
_CEPH = {"ceph-mon": "ceph-mon", "ceph-osd": "ceph-osd", "ceph": "ceph-common", "rbd": "ceph-common"}


class Choice(Struct, frozen=True, kw_only=True):
    """The mode and storage that a cluster gets here."""

    mode: Mode
    storage: str
    why: str


def choose(storage: str | None = None) -> Choice:
    """Decide; ``storage`` None takes the best there is. Raises Refused, naming what is lacking."""
    missing = _missing(_ALWAYS)
    if missing:
        raise Refused(f"not installed: {missing}; deploy/quickstart installs it, or: apt-get install {missing}")
    lacking = lacking_for_namespaces()
    if not lacking:
        no_ceph = _missing(_CEPH)
        if storage == "ceph" and no_ceph:
            raise Refused(f"--storage ceph: not installed: {no_ceph}; apt-get install {no_ceph}")
        if storage == "file":
            return Choice(mode="namespaces", storage="file", why="root with namespaces; file storage as asked")
        if no_ceph:
            why = f"root with namespaces; file storage because Ceph is not installed ({no_ceph})"
            return Choice(mode="namespaces", storage="file", why=why)
        return Choice(mode="namespaces", storage="ceph", why="root with namespaces: a mini Ceph with cephx")
    said = "; ".join(lacking)
    if os.geteuid() == 0:
        # libvirt's session daemon refuses to serve root, so there is no plain mode for it.
        raise Refused(
            f"this machine cannot make simulated hosts: {said}. Without them the cluster runs as an "
            "ordinary user only: run the same command as one"
        )
    if storage == "ceph":
        raise Refused(f"--storage ceph needs simulated hosts: {said}. Run it as root, or use --storage file")
    why = (
        f"no simulated hosts: {said}. So: file storage, nodes share this machine's network, no guest "
        "network, no remote fence, no cut; kill-node ends the node's processes"
    )
    return Choice(mode="plain", storage="file", why=why)


def lacking_for_namespaces() -> list[str]:
    """What keeps this process from making simulated hosts; empty: nothing."""
    if os.geteuid() != 0:
        return ["not root"]
    lacking = [f"{package} is not installed" for package in _missing(_NAMESPACES).split()]
    if lacking:
        return lacking
    tried = _try(["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "true"])
    if tried:
        return [f"no namespaces ({tried})"]
    script = "ip link add dev br9 type bridge && ip link add dev ve9 type veth peer name pe9"
    script += " && mount -t sysfs s /sys"
    if tried := _try(["unshare", "--mount", "--net", "sh", "-ec", script]):
        lacking.append(f"no bridge or veth ({tried})")
    if tried := _try(["unshare", "--net", "nft", "add table inet t"]):
        lacking.append(f"no nftables ({tried})")
    if not Path("/dev/net/tun").exists():
        lacking.append("/dev/net/tun is missing (modprobe tun)")
    return lacking


def _missing(programs: dict[str, str]) -> str:
    found = [package for program, package in programs.items() if not shutil.which(program, path=_SBIN)]
    return " ".join(dict.fromkeys(" ".join(found).split()))


def _try(argv: list[str]) -> str:
    """What went wrong; empty: nothing."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=20, check=False, env=tool_environment()
        )
    except OSError as error:
        return str(error)
    return (done.stderr.strip().splitlines() or ["it failed"])[-1] if done.returncode else ""
