"""What a one-machine cluster is to be, before anything of it starts.

Owns: the choice of mode, sizes and ports, and each agent's configuration. Refuses: starting anything.
Rule: what an existing cluster cannot become without its data being lost is refused.
"""

from __future__ import annotations

from typing import Any

import msgspec

from metastack.ports import Refused
from metastack.settings import StorageSettings, StoreSettings

from . import remains
from .etcd import free_ports
from .fabric import free_index
from .host import Host
from .layout import Layout, State, clusters, invoker
from .preflight import choose

ROOT = "/metastack"
CONSOLE_PORT = 7410
LOOPBACK = "127.0.0.1"
NODE_CPUS, NODE_MEMORY_MIB = 2, 4096


def plan(
    layout: Layout,
    nodes: int | None,
    etcd: int | None,
    storage: str | None,
    ttl_s: int | None,
    secure: bool | None = None,
) -> State:
    """What the cluster shall be: None keeps what it has; a new one has 3 nodes, 1 etcd, 5 s. Raises Refused."""
    state = layout.load()
    if state is None:
        remains.refuse(layout)
        choice = choose(storage)
        size, members = nodes or 3, etcd or 1
        if not 1 <= size <= 30 or members not in (1, 3):
            raise Refused("--nodes 1 to 30, --etcd 1 or 3")
        uid, gid = invoker()
        taken = {other.index for name in clusters() if (other := Layout(name).load())}
        state = State(
            name=layout.name,
            mode=choice.mode,
            why=choice.why,
            storage=choice.storage,
            index=free_index(taken) if choice.mode == "namespaces" else -1,
            nodes=[f"n{number + 1}" for number in range(size)],
            etcd=members,
            lease_ttl_s=ttl_s or 5,
            secure=bool(secure),
            uid=uid,
            gid=gid,
        )
    else:
        if storage not in (None, state.storage):
            raise Refused(f"cluster {state.name} has {state.storage} storage: metastack dev down first")
        if etcd not in (None, state.etcd):
            raise Refused(f"cluster {state.name} has {state.etcd} etcd members: metastack dev down first")
        if secure not in (None, state.secure):
            has = "TLS and rights" if state.secure else "neither TLS nor rights"
            raise Refused(f"etcd of cluster {state.name} has {has}: metastack dev down first")
        if nodes is not None and nodes < len(state.nodes):
            raise Refused(f"cluster {state.name} has {len(state.nodes)} nodes: kill-node one, or down first")
        if nodes:
            state.nodes = [f"n{number + 1}" for number in range(nodes)]
        state.lease_ttl_s = ttl_s or state.lease_ttl_s
    if state.mode == "plain":
        wanted = [f"e{n + 1}.{what}" for n in range(state.etcd) for what in ("client", "peer")]
        wanted += [f"{node}.console" for node in state.nodes]
        new = [name for name in wanted if name not in state.ports]
        state.ports |= dict(zip(new, free_ports(len(new)), strict=True)) if new else {}
    return state


def agent_config(host: Host, port: int, store: StoreSettings, storage: StorageSettings) -> dict[str, Any]:
    """The configuration file of a host's agent; ``port``: of its console endpoint."""
    return {
        "name": host.name,
        **msgspec.to_builtins(store),
        "address": host.address,
        # Without namespaces all nodes share one address: it names none of them, and nothing is fenced by it.
        "storage_addresses": [] if host.address == LOOPBACK else [host.address],
        "console_listen": f"{host.address}:{port}",
        "libvirt_uri": host.libvirt_uri,
        "libvirtd_restart_command": [str(host.barrier)],
        "host_state_command": ["cat", str(host.state)],
        "hypervisor": "auto",
        "state_dir": str(host.folder / "agent"),
        "boot_id_file": str(host.boot_id),
        "run_dir": str(host.run / "metastack"),
        "cpus": NODE_CPUS,
        "memory_mib": NODE_MEMORY_MIB,
        "log_format": "json",
        "storage": msgspec.to_builtins(storage),
    }
