"""The cluster that chaos is played on: its own, from nothing, and gone afterwards.

Owns: three nodes, etcd of three members, a mini Ceph, some heartbeat guests, and the watch over who is alive.
Refuses: any cluster that was there before. Rule: whatever happens inside, nothing is left running.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metastack.core.model import NodeAlive
from metastack.ports import NotFound, Refused, Unavailable

from .. import guest
from ..cluster import Cluster, Say
from ..layout import ENV_STATE, cache
from .disks import Disks
from .faults import TTL_S
from .listen import GuestListener

NODES = 3
MEMBERS = 3
IMAGE = "chaos"
COMMAND_TIMEOUT_S = 240.0
GUEST_INIT = Path(__file__).with_name("guest-init.sh")


class Census(threading.Thread):
    """Asks etcd all the time which nodes are alive; keeps the last answer and who was missed."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(name="census", daemon=True)
        self._cluster = cluster
        self._over = threading.Event()
        self.asked_s = 0.0
        """When the last answer was asked for, monotonic: it is at least so young."""
        self.alive: dict[str, NodeAlive] = {}
        self.two_gone_since_s = 0.0
        """Since when more than half of the nodes have been gone and no brake was said; 0: not so."""
        self.brake_said = 0
        """Answers in which a node said that the brake holds."""
        self.unsaid_s = 0.0
        """The longest time that the brake should have been said and was not."""

    def run(self) -> None:
        while not self._over.is_set():
            asked_s = time.monotonic()
            found = self._cluster.alive()
            if found:  # else etcd does not answer, or nobody is there to say anything
                self._count(asked_s, found)
                self.alive, self.asked_s = found, asked_s
            self._over.wait(0.3)

    def _count(self, now_s: float, found: dict[str, NodeAlive]) -> None:
        ready = [node for node in found.values() if node.ready]
        said = any(node.brake for node in ready)
        self.brake_said += said
        if said or not ready or len(found) * 2 > len(self._cluster.state.nodes):
            self.two_gone_since_s = 0.0
            return
        self.two_gone_since_s = self.two_gone_since_s or now_s
        self.unsaid_s = max(self.unsaid_s, now_s - self.two_gone_since_s)

    def stop(self) -> None:
        self._over.set()
        if self.ident is not None:
            self.join(30)


@dataclass(kw_only=True)
class Stage:
    """Everything that a round needs."""

    cluster: Cluster
    ears: GuestListener
    census: Census
    disks: Disks
    volumes: dict[str, str]
    """Volume UUID by VM name."""

    def json(self, *words: str) -> Any:
        return json.loads(command(self.cluster, *words, "-o", "json"))

    def qemus(self) -> dict[int, str]:
        """Node by pid of every QEMU process."""
        found: dict[int, str] = {}
        for name, host in self.cluster.hosts.items():
            if init := self.cluster.init(name):
                found |= {process.pid: name for process in host.qemu(init)}
        return found


def command(cluster: Cluster, *words: str) -> str:
    """What a person would type; its output. Raises Unavailable with what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "metastack.cli.main", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        env={**os.environ, "METASTACK_CONTEXT": cluster.layout.name},
    )
    if done.returncode:
        raise Unavailable(f"metastack {' '.join(words)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def stage(
    vms: int, say: Say, make: Callable[[str], Cluster] = Cluster, ttl_s: int = TTL_S, folder: Path | None = None
) -> Iterator[Stage]:
    """A fresh cluster whose guests all write; nothing of it is left afterwards.

    ``make``: what kind of cluster, for tests that break one. ``folder``: where the consoles' log goes.
    """
    image = guest.image(cache(), GUEST_INIT)
    home = Path(tempfile.mkdtemp(prefix="msc", dir="/tmp"))  # sockets below it: their paths must be short
    wanted = {ENV_STATE: str(home / "s"), "METASTACK_CONFIG": str(home / "config.toml")}
    kept = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    say(f"the cluster lives in {home}; should this be killed: {ENV_STATE}={home}/s metastack dev down --name c")
    cluster = make("c")
    try:
        cluster.up(nodes=NODES, etcd=MEMBERS, storage="ceph", ttl_s=ttl_s, secure=True, say=say)
        if cluster.ceph is None or cluster.fabric is None:
            raise Refused(f"chaos needs namespaces and Ceph: {cluster.state.why}")
        ears = GuestListener(cluster, (folder or home) / "consoles.log")
        census = Census(cluster)
        ears.start()
        census.start()
        try:
            command(cluster, "image", "import", IMAGE, str(image))
            volumes = {}
            for number in range(vms):
                name = f"vm{number + 1}"
                size = ("--image", IMAGE, "--memory", "96MiB", "--network", "none")
                command(cluster, "vm", "create", name, *size)
                shown = json.loads(command(cluster, "vm", "show", name, "-o", "json"))
                volumes[name] = shown["volume_uuid"]
            disks = Disks(cluster.ceph, guest.ring_offset(image))
            yield Stage(cluster=cluster, ears=ears, census=census, disks=disks, volumes=volumes)
        finally:
            census.stop()
            ears.stop()
    finally:
        with contextlib.suppress(NotFound):
            cluster.down()
        shutil.rmtree(home, ignore_errors=True)
        for key, value in kept.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
