"""Doing faults to the cluster, and taking them back.

Owns: how each simple kind is done on the real parts; those of several steps are in :mod:`.orders`.
Refuses: choosing, and waiting until the cluster has recovered.
Rule: one thing at a time (the cluster's record is one file), and :meth:`Injector.heal` takes back everything,
whatever was done.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from metastack.ports import Refused, Unavailable

from ..cluster import Cluster
from ..fabric import tool_environment
from ..proc import alive, send
from .faults import Fault, Kind
from .orders import Orders

_CUTS = {Kind.CUT_ETCD: "etcd", Kind.CUT_STORAGE: "storage", Kind.CUT_ALL: "all"}
_FROZEN = {
    Kind.AGENT_FROZEN_BRIEFLY: "agent",
    Kind.AGENT_FROZEN_LONG: "agent",
    Kind.LIBVIRTD_FROZEN: "libvirtd",
}


class Injector:
    """Every fault of the table, on one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._one = threading.Lock()

    def play(self, faults: Sequence[Fault]) -> list[dict[str, Any]]:
        """Do the faults at their times and take each back after its hold; what was done when."""
        begun_s, done = time.monotonic(), list[dict[str, Any]]()

        def one(fault: Fault) -> None:
            _sleep_until(begun_s + fault.begin_s)
            with self._one:
                what, undo = self._begin(fault)
            done.append({"at_s": round(time.monotonic() - begun_s, 2), "did": what})
            _sleep_until(time.monotonic() + fault.hold_s)
            if undo is not None:
                with self._one:
                    undo()
                done.append({"at_s": round(time.monotonic() - begun_s, 2), "did": f"took back {what}"})

        with ThreadPoolExecutor(max(1, len(faults))) as pool:
            for result in [pool.submit(one, fault) for fault in faults]:
                result.result()
        return done

    def heal(self) -> None:
        """Whatever was done is taken back; what is well stays untouched."""
        cluster = self.cluster
        with self._one:
            for member in cluster.etcd.members:
                process = cluster.state.procs.get(f"etcd.{member.name}")
                if process is not None and alive(process):
                    cluster.signal_etcd(member.name, signal.SIGCONT)
                else:
                    cluster.start_etcd(member.name, wait=False)
            if cluster.ceph is not None:
                for daemon in cluster.ceph.status().running:
                    cluster.ceph.signal(daemon, signal.SIGCONT)
                if cluster.ceph.status().missing:
                    asyncio.run(cluster.ceph.start())
            for name, host in cluster.hosts.items():
                if not cluster.is_on(name):
                    cluster.start_node(name)
                    continue
                cluster.heal(name)
                if init := cluster.init(name):
                    for qemu in host.qemu(init):
                        send(qemu, signal.SIGCONT)
                for service in ("libvirtd", "agent"):
                    host.signal(service, signal.SIGCONT)

    # --- each kind

    def _begin(self, fault: Fault) -> tuple[str, Callable[[], None] | None]:
        """Do it: what exactly was done, and how to take it back (None: it comes back by itself)."""
        cluster, kind, target = self.cluster, fault.kind, fault.target
        match kind:
            case Kind.POWER_CUT:
                cluster.kill_node(target)
                return f"{target}: power cut", lambda: cluster.start_node(target)
            case Kind.AGENT_KILLED:
                cluster.host(target).signal("agent", signal.SIGKILL)
                return f"{target}: agent killed", None
            case Kind.LIBVIRTD_KILLED:
                cluster.host(target).signal("libvirtd", signal.SIGKILL)
                return f"{target}: libvirtd killed", None
            case Kind.AGENT_FROZEN_BRIEFLY | Kind.AGENT_FROZEN_LONG | Kind.LIBVIRTD_FROZEN:
                return self._freeze(target, _FROZEN[kind])
            case Kind.CUT_ETCD:
                cluster.cut(target, "etcd")
            case Kind.CUT_STORAGE:
                cluster.cut(target, "storage")
            case Kind.CUT_ALL:
                cluster.cut(target, "all")
            case Kind.ETCD_LEADER_KILLED:
                return self._kill_etcd([self._leader()])
            case Kind.ETCD_QUORUM_LOST:
                leader = self._leader()
                others = [member.name for member in cluster.etcd.members if member.name != leader]
                # Two of three; the leader among them, so that the last one has to notice.
                return self._kill_etcd([leader, others[0]])
            case Kind.ETCD_LEADER_FROZEN:
                leader = self._leader()
                cluster.signal_etcd(leader, signal.SIGSTOP)
                return f"{leader}: frozen", lambda: cluster.signal_etcd(leader, signal.SIGCONT)
            case Kind.OSD_KILLED:
                return self._kill_ceph("osd.0")
            case Kind.MON_KILLED:
                return self._kill_ceph("mon.a")
            case _:
                return Orders(cluster, self._leader).begin(fault)
        return f"{target}: cut off from {_CUTS[kind]}", lambda: cluster.heal(target)

    def _freeze(self, node: str, service: str) -> tuple[str, Callable[[], None]]:
        host = self.cluster.host(node)
        host.signal(service, signal.SIGSTOP)
        return f"{node}: {service} frozen", lambda: host.signal(service, signal.SIGCONT)

    def _kill_etcd(self, names: Sequence[str]) -> tuple[str, Callable[[], None]]:
        for name in names:
            self.cluster.stop_etcd(name, signal.SIGKILL)

        def back() -> None:
            for name in names:
                self.cluster.start_etcd(name, wait=False)

        return f"{', '.join(names)}: killed", back

    def _kill_ceph(self, daemon: str) -> tuple[str, Callable[[], None]]:
        ceph = self.cluster.ceph
        if ceph is None:
            raise Refused("no Ceph in this cluster")
        ceph.kill(daemon)
        return f"{daemon}: killed", lambda: asyncio.run(ceph.start())

    def _leader(self) -> str:
        """The name of etcd's leader; any living member when nobody says who leads."""
        cluster = self.cluster
        argv = [*cluster.etcdctl(), "-w", "json"]
        done = subprocess.run(
            [*argv, "--command-timeout=3s", "endpoint", "status"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={**tool_environment(), "ETCDCTL_API": "3"},
        )
        names = dict(zip(cluster.etcd.endpoints, (member.name for member in cluster.etcd.members), strict=True))
        # Dead members are told on stderr; the living ones are a list on stdout all the same.
        for row in json.loads(done.stdout or "[]") or []:
            status = row["Status"]
            if status.get("leader") == status["header"]["member_id"]:
                return names[row["Endpoint"]]
        for name in names.values():
            process = cluster.state.procs.get(f"etcd.{name}")
            if process is not None and alive(process):
                return name
        raise Unavailable("no member of etcd runs")


def _sleep_until(due_s: float) -> None:
    time.sleep(max(0.0, due_s - time.monotonic()))
