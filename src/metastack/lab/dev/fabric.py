"""The wires of a one-machine cluster: a network namespace with two bridges, addresses, and DHCP for guests.

Owns: the fabric's namespace (kept by a mount in the state folder), the cables from it to each node, and the
subnets; the route that keeps them from leaking, and what a ``cut`` drops.
Refuses: the host's own links, addresses and firewall: nothing there but two unreachable routes.
Rule: storage and control traffic and guests are two separate networks; a guest reaches guests only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from metastack.ports import Broken, Unavailable

CUTS = ("etcd", "storage", "all")
Cut = Literal["etcd", "storage", "all"]
_MNT_DETACH = 2
_TX_OFF = """
import array, fcntl, socket, struct, sys
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
value = array.array("B", struct.pack("II", ETHTOOL_STXCSUM, 0))
request = struct.pack("16sP", sys.argv[1].encode(), value.buffer_info()[0])
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SIOCETHTOOL, request)
"""


class Subnets:
    """The addresses of cluster number ``index``."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.control = ipaddress.IPv4Network(f"10.77.{index}.0/24")
        self.guests = ipaddress.IPv4Network(f"10.78.{index}.0/24")

    def etcd(self, number: int) -> str:
        """Address of the n-th etcd member, from 0."""
        return str(self.control[1 + number])

    @property
    def ceph(self) -> str:
        return str(self.control[9])

    def node(self, number: int) -> str:
        """Control and storage address of the n-th node, from 0."""
        return str(self.control[11 + number])

    @property
    def fabric_guests(self) -> str:
        return str(self.guests[1])


def free_index(taken: set[int]) -> int:
    """The lowest number whose subnets nobody uses: no other cluster and no route of this machine."""
    rows = json.loads(_run(["ip", "-j", "-4", "route", "show", "table", "all"]))
    used = [
        ipaddress.IPv4Network(row["dst"], strict=False)
        for row in rows
        if row.get("dst") not in (None, "default") and ":" not in row["dst"]
    ]
    for index in range(250):
        subnets = Subnets(index)
        nets = (subnets.control, subnets.guests)
        if index not in taken and not any(net.overlaps(other) for net in nets for other in used):
            return index
    raise Unavailable("no free subnets in 10.77.0.0/16 and 10.78.0.0/16")


@contextlib.contextmanager
def choosing(timeout_s: float = 20.0) -> Iterator[None]:
    """One chooser of subnets at a time on this machine, until its routes are set.

    An abstract socket's name is the lock: it needs no file, and the kernel frees it with its process.
    """
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX) as lock:
        while True:
            try:
                lock.bind("\0metastack-dev-subnets")
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            if time.monotonic() > deadline:
                raise Unavailable("another cluster has been choosing its subnets for too long")
            time.sleep(0.05)
        yield


class Fabric:
    """The namespace ``path`` and what hangs on it."""

    def __init__(self, path: Path, index: int) -> None:
        self.path = path
        self.subnets = Subnets(index)

    @property
    def prefix(self) -> tuple[str, ...]:
        """Runs a command inside; execs, so that the pid stays."""
        return ("nsenter", f"--net={self.path}", "--")

    def exists(self) -> bool:
        return os.path.ismount(self.path)

    def make(self, etcd: int, ceph: bool) -> None:
        """The namespace with its bridges and addresses; what is there already stays."""
        if not self.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            # The new namespace lives as long as this mount: no process has to hold it.
            _run(["unshare", f"--net={self.path}", "true"])
        present = self._links()
        lines = ["link set lo up"]
        for number, bridge in enumerate(("control", "guests")):
            if bridge not in present:
                # Of its own accord a bridge has the lowest address of its ports: with one node's cable gone
                # etcd would have another one, and every other node would lose it for seconds.
                mac = f"02:77:{self.subnets.index:02x}:00:00:{number:02x}"
                lines += [f"link add {bridge} address {mac} type bridge", f"link set {bridge} up"]
        addresses = [self.subnets.etcd(number) for number in range(etcd)]
        addresses += [self.subnets.ceph] if ceph else []
        lines += [f"address replace {address}/24 dev control" for address in addresses]
        lines += [f"address replace {self.subnets.fabric_guests}/24 dev guests"]
        self.ip(lines)
        if "guests" not in present:
            # Without whole checksums in its packets a guest's DHCP client drops the offer.
            _run([*self.prefix, sys.executable, "-I", "-S", "-c", _TX_OFF, "guests"])
        self.claim_routes()

    def claim_routes(self) -> None:
        """Safety: without them a packet for a cluster that is down would leave by the default route.

        They also tell other choosers that the subnets are taken.
        """
        for net in (self.subnets.control, self.subnets.guests):
            _run(["ip", "route", "replace", "unreachable", str(net)])

    def remove(self) -> None:
        """Everything away; the namespace dies with its last process."""
        for net in (self.subnets.control, self.subnets.guests):
            subprocess.run(
                ["ip", "route", "del", "unreachable", str(net)], capture_output=True, check=False, timeout=10
            )
        unmount(self.path)

    def ip(self, lines: Sequence[str]) -> None:
        """ip commands inside the fabric, in one process."""
        _batch(self.prefix, lines)

    # --- cables to nodes

    def plug(self, node: str, number: int, pid: int) -> None:
        """Connect a node's namespace (held by ``pid``): eth0 with its address, br0 for its guests."""
        address = self.subnets.node(number)
        self.ip(
            [
                f"link add c-{node} type veth peer name eth0 netns {pid}",
                f"link set c-{node} master control up",
                f"link add g-{node} type veth peer name eth1 netns {pid}",
                f"link set g-{node} master guests up",
            ]
        )
        inside = ("nsenter", f"--net=/proc/{pid}/ns/net", "--")
        _batch(
            inside,
            [
                "link set lo up",
                "link set eth0 up",
                f"address add {address}/24 dev eth0",
                "link add br0 type bridge",
                "link set eth1 master br0 up",
                "link set br0 up",
            ],
        )

    def unplug(self, node: str) -> None:
        """Pull a node's cables; absent ones are fine."""
        for wire in (f"c-{node}", f"g-{node}"):
            # They also go by themselves some time after their node died: absent only counts afterwards.
            subprocess.run(
                [*self.prefix, "ip", "link", "del", wire],
                capture_output=True,
                check=False,
                timeout=20,
                env=tool_environment(),
            )
        if left := {f"c-{node}", f"g-{node}"} & self._links():
            raise Broken(f"cables of {node} cannot be pulled: {left}")

    def _links(self) -> set[str]:
        return {link["ifname"] for link in json.loads(_run([*self.prefix, "ip", "-j", "link"]))}

    def cut(self, pid: int, what: Cut, etcd: int) -> None:
        """Drop a node's packets to etcd, to storage, or all of them, inside the node. Adds to earlier cuts."""
        addresses = [self.subnets.etcd(number) for number in range(etcd)]
        match what:
            case "storage":
                addresses = [self.subnets.ceph]
            case "all":
                addresses = [str(self.subnets.control)]
            case "etcd":
                pass
        drop = ", ".join(addresses)
        _nft(
            pid,
            f"""
            table inet cut_{what} {{ }}
            flush table inet cut_{what}
            table inet cut_{what} {{
              chain in {{ type filter hook input priority 0; ip saddr {{ {drop} }} drop; }}
              chain out {{ type filter hook output priority 0; ip daddr {{ {drop} }} drop; }}
            }}
            """,
        )
        if what == "all":
            self._guests(pid, "down")

    def heal(self, pid: int) -> None:
        """Take every cut back."""
        _nft(pid, "".join(f"table inet cut_{what} {{ }}\ndelete table inet cut_{what}\n" for what in CUTS))
        self._guests(pid, "up")

    def cuts(self, pid: int) -> list[str]:
        """Which cuts a node suffers."""
        tables = _run(["nsenter", f"--net=/proc/{pid}/ns/net", "--", "nft", "list", "tables"])
        return [what for what in CUTS if f"table inet cut_{what}\n" in tables + "\n"]

    def _guests(self, pid: int, state: str) -> None:
        _batch(("nsenter", f"--net=/proc/{pid}/ns/net", "--"), [f"link set eth1 {state}"])

    def dnsmasq(self, folder: Path) -> list[str]:
        """Command line of the guests' DHCP server; it routes and resolves nothing."""
        net = self.subnets.guests
        return [
            *self.prefix,
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=guests",
            "--bind-interfaces",
            "--except-interface=lo",
            f"--dhcp-range={net[20]},{net[250]},255.255.255.0,1h",
            "--dhcp-authoritative",
            "--dhcp-option=3",
            "--dhcp-option=6",
            "--no-ping",
            "--log-facility=-",
            f"--dhcp-leasefile={folder / 'leases'}",
            "--pid-file=",
            "--user=root",
            "--group=root",
        ]


def unmount(path: Path) -> None:
    """Take a namespace's mount away, as often as it was mounted, and its file; neither there is fine."""
    libc = ctypes.CDLL(None, use_errno=True)
    while os.path.ismount(path):
        if libc.umount2(os.fsencode(path), _MNT_DETACH) != 0:
            raise Unavailable(f"cannot unmount {path}: {os.strerror(ctypes.get_errno())}")
    path.unlink(missing_ok=True)


def _batch(prefix: Sequence[str], lines: Sequence[str]) -> None:
    if lines:
        _run([*prefix, "ip", "-batch", "-"], "\n".join(lines) + "\n")


def _nft(pid: int, rules: str) -> None:
    _run(["nsenter", f"--net=/proc/{pid}/ns/net", "--", "nft", "-f", "-"], rules)


def _run(argv: Sequence[str], stdin: str = "") -> str:
    """Run a network command; raises Broken with what it said: its arguments are all our own."""
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=20, check=False, env=tool_environment()
        )
    except FileNotFoundError as error:
        raise Unavailable(f"{error.filename} is not installed: deploy/quickstart installs it") from None
    if done.returncode:
        raise Broken(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}\n{stdin}")
    return done.stdout


def tool_environment() -> dict[str, str]:
    """What the system's tools need: sbin is not in everybody's PATH."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
