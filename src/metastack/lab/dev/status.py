"""What of a one-machine cluster runs, and how much memory it takes.

Owns: the report that ``metastack dev status`` prints. Refuses: changing anything.
Rule: it is read from processes and etcd at this moment, never from what ``up`` once meant to start.
"""

from __future__ import annotations

from typing import Any

from . import proc
from .cluster import Cluster
from .proc import Proc


def report(cluster: Cluster) -> dict[str, Any]:
    """The report as JSON types."""
    state = cluster.state
    processes = _processes(cluster)
    alive = cluster.alive()
    nodes = []
    for name, host in cluster.hosts.items():
        init = cluster.init(name)
        services = host.services() if init else {}
        running = {service: facts["pid"] for service, facts in services.items() if facts["pid"]}
        nodes.append(
            {
                "name": name,
                "power": "on" if init else "off",
                "ready": name in alive and alive[name].ready,
                "address": host.address,
                "services": sorted(running),
                "vms": len(host.qemu(init)) if init else 0,
                "cuts": cluster.fabric.cuts(init.pid) if cluster.fabric and init else [],
                "rss_mib": round(sum(row["rss_mib"] for row in processes if row["node"] == name), 1),
                "log": str(host.agent_log),
                "libvirt_uri": host.libvirt_uri,
            }
        )
    return {
        "name": state.name,
        "mode": state.mode,
        "storage": state.storage,
        "why": state.why,
        "folder": str(cluster.layout.folder),
        "endpoints": list(cluster.store_settings.endpoints),
        "netns": str(cluster.layout.fabric) if cluster.fabric else None,
        "lease_ttl_s": state.lease_ttl_s,
        "nodes": nodes,
        "processes": processes,
        "rss_mib": round(sum(row["rss_mib"] for row in processes), 1),
    }


def _processes(cluster: Cluster) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def add(role: str, one: Proc, node: str | None = None) -> None:
        rss_mib = round(proc.rss_kib(one.pid) / 1024, 1)
        rows.append({"role": role, "node": node, "pid": one.pid, "rss_mib": rss_mib})

    for role, one in cluster.state.procs.items():
        if not role.startswith("host.") and proc.alive(one):
            add(role, one)
    if cluster.ceph:
        for name, pid in _ceph_pids(cluster).items():
            if daemon := proc.observe(pid):
                add(name, daemon)
    for name, host in cluster.hosts.items():
        if init := cluster.init(name):
            for one in host.processes(init):
                add("init" if one == init else proc.command(one.pid), one, name)
    return rows


def _ceph_pids(cluster: Cluster) -> dict[str, int]:
    assert cluster.ceph is not None
    run = cluster.ceph.directory / "run"
    pids = {}
    for name in cluster.ceph.status().running:
        pids[name] = int((run / f"{name}.pid").read_text())
    return pids
