"""The few etcd records that the laboratory itself reads and writes, through ``etcdctl``.

Owns: ``config/cluster`` at start, and reading which nodes are ready. Refuses: everything that a person would
do with the CLI.
Rule: a command of its own instead of our store, because this process starts others for its whole life and
nothing may be forked after gRPC is loaded.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence

import msgspec

from metastack.core.model import Claim, ClusterConfig, NodeAlive, VmId, VmStatus
from metastack.core.state import codec
from metastack.core.state.keys import Keys, Kind
from metastack.core.state.record_versions import LEVEL, settings_bytes
from metastack.ports import Unavailable
from metastack.settings import StoreSettings

from .fabric import tool_environment

Row = tuple[str, bytes]
"""Key and value."""


def etcdctl(prefix: Sequence[str], store: StoreSettings) -> list[str]:
    """The beginning of a command line that reaches etcd with these endpoints and certificates."""
    flags = {"endpoints": ",".join(store.endpoints), "cacert": store.ca, "cert": store.cert, "key": store.key}
    return [*prefix, "etcdctl", *(f"--{flag}={value}" for flag, value in flags.items() if value)]


class Records:
    """etcd as seen from where ``prefix`` runs commands."""

    def __init__(self, prefix: Sequence[str], store: StoreSettings) -> None:
        self.keys = Keys(store.root)
        flags = {
            "endpoints": ",".join(store.endpoints),
            "cacert": store.ca,
            "cert": store.cert,
            "key": store.key,
        }
        self._command = [*prefix, "etcdctl", *(f"--{flag}={value}" for flag, value in flags.items() if value)]

    def configure(self, lease_ttl_s: int, default_network: str) -> ClusterConfig:
        """Make ``config/cluster`` say this much; the rest of an existing one stays."""
        key = self.keys.cluster()
        rows = self._get(key)
        # A cluster that is there already may have older agents: only `cluster upgrade-finish` raises its level.
        old = codec.decode(ClusterConfig, rows[0][1], key) if rows else ClusterConfig(record_version=LEVEL)
        new = msgspec.structs.replace(old, lease_ttl_s=lease_ttl_s)
        if not rows:
            new = msgspec.structs.replace(new, default_network=default_network)
        if new != old or not rows:
            # etcdctl's transactions cannot carry JSON (its own quoting breaks it), so this one is a plain put.
            self._etcdctl("put", key, settings_bytes(new).decode())
        return new

    def ready(self) -> dict[str, NodeAlive]:
        """Living nodes by name; those that do not parse are left out."""
        found = {}
        prefix = self.keys.prefix(Kind.NODE_ALIVE)
        for key, value in self._get(prefix, "--prefix"):
            try:
                found[key[len(prefix) :]] = codec.decode(NodeAlive, value, key)
            except codec.Unreadable:
                continue
        return found

    def placed(self, vm: VmId) -> tuple[str, str]:
        """Node that owns a VM and the phase it publishes; empty while there is none."""
        claims = self._get(self.keys.claim(vm))
        statuses = self._get(self.keys.vm_status(vm))
        node = codec.decode(Claim, claims[0][1]).node if claims else ""
        return node, codec.decode(VmStatus, statuses[0][1]).phase if statuses else ""

    def revoke(self, node: str) -> None:
        """Revoke the lease of a living node's alive key, as a mistaken etcd does. Raises Unavailable."""
        answer = json.loads(self._etcdctl("get", self.keys.node_alive(node), "-w", "json"))
        if not answer.get("kvs"):
            raise Unavailable(f"{node} is not alive: there is no lease to revoke")
        self._etcdctl("lease", "revoke", f"{answer['kvs'][0]['lease']:x}")

    def watch_nodes(self) -> list[str]:
        """Command line that prints every change of an alive key as a line of JSON, until it is ended."""
        return [*self._command, "watch", "--prefix", self.keys.prefix(Kind.NODE_ALIVE), "-w", "json"]

    def _get(self, key: str, *flags: str) -> list[Row]:
        answer = json.loads(self._etcdctl("get", key, *flags, "-w", "json"))
        return [
            (base64.b64decode(kv["key"]).decode(), base64.b64decode(kv["value"]))
            for kv in answer.get("kvs", [])
        ]

    def _etcdctl(self, *argv: str) -> str:
        try:
            done = subprocess.run(
                [*self._command, *argv],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=15,
                check=False,
                env={**tool_environment(), "ETCDCTL_API": "3"},
            )
        except subprocess.TimeoutExpired:
            raise Unavailable("etcdctl: no answer within 15 s") from None
        if done.returncode:
            raise Unavailable(f"etcdctl {argv[0]}: {done.stderr.strip()[-400:]}")
        return done.stdout
