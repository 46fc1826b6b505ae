"""Faults of several steps, whose order is the point: who thaws first, who dies while somebody is fenced.

Owns: how each is done on the real parts. Refuses: choosing.
Rule: every wait ends by a deadline, and what was seen meanwhile is part of what is told.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from metastack.ports import Refused, Unavailable

from ..cluster import POOL, Cluster
from ..fabric import tool_environment
from ..host import Host
from ..plan import ROOT
from ..proc import send, wait_for
from .faults import Fault, Kind

Undo = Callable[[], None]

THAW_GAP_S: Final = 1.0
"""Between two parts of a host that thaw one after the other."""
FENCE_SEEN_S: Final = 15.0
"""A lost node of a lease of 3 s is fenced long before; one without VMs, or under the brake, is not fenced."""
NOBODY: Final = f"no node began to fence it within {FENCE_SEEN_S:g} s"
FAKETIME: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
DAYS_AHEAD: Final = 2
_THAWS: Final = {
    Kind.HOST_THAWS_QEMU_FIRST: ("qemu", "libvirtd", "agent"),
    Kind.HOST_THAWS_AGENT_FIRST: ("agent", "libvirtd", "qemu"),
    Kind.HOST_THAWS_LIBVIRTD_FIRST: ("libvirtd", "agent", "qemu"),
}


def unplayable() -> dict[Kind, str]:
    """Kinds that this machine cannot play, and what is missing."""
    if FAKETIME.exists():
        return {}
    return {Kind.CLOCK_TURNED: f"{FAKETIME} is missing (apt-get install faketime)"}


class Orders:
    """The table's faults of several steps, on one cluster; ``leader`` names etcd's."""

    def __init__(self, cluster: Cluster, leader: Callable[[], str]) -> None:
        self._cluster, self._leader = cluster, leader

    def begin(self, fault: Fault) -> tuple[str, Undo | None]:
        """Do it: what exactly was done, and how to take it back (None: it comes back by itself)."""
        node = fault.target
        match fault.kind:
            case Kind.QEMU_FROZEN:
                return self._freeze(node, ("agent", "qemu"), ("qemu", "agent"))
            case kind if kind in _THAWS:
                return self._freeze(node, ("agent", "libvirtd", "qemu"), _THAWS[kind])
            case Kind.FENCER_KILLED:
                return self._fencer_killed(node, fault.hold_s)
            case Kind.MON_FROZEN_IN_FENCE:
                return self._frozen_in_fence(node, "mon.a")
            case Kind.OSD_FROZEN_IN_FENCE:
                return self._frozen_in_fence(node, "osd.0")
            case Kind.LIBVIRTD_KILLED_OFTEN:
                return self._kill_libvirtd(node, 6), None
            case Kind.CLOCK_TURNED:
                return self._turn_clock(node)
            case Kind.ETCD_DATA_LOST:
                return self._lose_data()
            case Kind.VIRSH_BY_HAND:
                return self._by_hand(node, fault.hold_s)
            case _:
                raise AssertionError(f"nobody does {fault.kind}")

    # --- frozen and thawed

    def _signal(self, node: str, part: str, how: signal.Signals) -> None:
        host = self._cluster.host(node)
        if part != "qemu":
            host.signal(part, how)
        elif init := self._cluster.init(node):
            for qemu in host.qemu(init):
                send(qemu, how)

    def _freeze(self, node: str, parts: tuple[str, ...], thaw: tuple[str, ...]) -> tuple[str, Undo]:
        for part in parts:
            self._signal(node, part, signal.SIGSTOP)

        def back() -> None:
            for number, part in enumerate(thaw):
                if number:
                    time.sleep(THAW_GAP_S)
                self._signal(node, part, signal.SIGCONT)

        return f"{node}: {', '.join(parts)} frozen, to thaw as {', '.join(thaw)}", back

    # --- in the middle of a fence

    def _fencer_killed(self, node: str, hold_s: float) -> tuple[str, Undo]:
        with self._fence_of(node) as intent:
            self._cluster.kill_node(node)
            fencer = intent()
            # The block takes some 50 ms: the moment lies before, within or after it, as the seed has it.
            delay_s = (hold_s * 10) % 1 * 0.12
            if fencer:
                time.sleep(delay_s)
                self._cluster.host(fencer).signal("agent", signal.SIGKILL)
        then = f"{fencer} killed {delay_s:.3f} s after it began to fence" if fencer else NOBODY
        return f"{node}: power cut; {then}", lambda: self._cluster.start_node(node)

    def _frozen_in_fence(self, node: str, daemon: str) -> tuple[str, Undo]:
        ceph = self._cluster.ceph
        if ceph is None:
            raise Refused("no Ceph in this cluster")
        with self._fence_of(node) as intent:
            self._cluster.kill_node(node)
            fencer = intent()
            ceph.signal(daemon, signal.SIGSTOP)

        def back() -> None:
            asyncio.run(ceph.thaw(daemon, POOL))
            self._cluster.start_node(node)

        then = f"while {fencer} fences it" if fencer else f"although {NOBODY}"
        return f"{node}: power cut; {daemon} frozen {then}", back

    @contextlib.contextmanager
    def _fence_of(self, node: str) -> Iterator[Callable[[], str]]:
        """Watch for the intent to fence a node; the callable waits for it and names the fencer, if any."""
        cluster = self._cluster
        argv = [*cluster.etcdctl(), "-w", "json"]
        watch = subprocess.Popen(
            [*argv, "watch", f"{ROOT}/fences/{node}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**tool_environment(), "ETCDCTL_API": "3"},
        )
        try:
            yield lambda: _fencer(watch, node)
        finally:
            watch.kill()
            watch.wait(10)
            if watch.stdout is not None:
                watch.stdout.close()

    # --- libvirtd, clocks, etcd's data, hands

    def _kill_libvirtd(self, node: str, times: int) -> str:
        host = self._cluster.host(node)
        for _ in range(times):
            before = _pid(host, "libvirtd")
            host.signal("libvirtd", signal.SIGKILL)
            wait_for(
                lambda before=before: _pid(host, "libvirtd") not in (0, before),  # type: ignore[misc]
                20.0,
                lambda: f"{node}: init started no other libvirtd: {host.services()}",
            )
        return f"{node}: libvirtd killed {times} times"

    def _turn_clock(self, node: str) -> tuple[str, Undo]:
        if missing := unplayable().get(Kind.CLOCK_TURNED):
            raise Refused(missing)
        host = self._cluster.host(node)
        host.stop_agent(signal.SIGKILL)
        turned = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME": f"+{DAYS_AHEAD}d",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        host.start_agent(turned)

        def back() -> None:
            host.stop_agent(signal.SIGKILL)
            host.start_agent()

        return f"{node}: agent killed and started {DAYS_AHEAD} days ahead", back

    def _lose_data(self) -> tuple[str, Undo]:
        cluster, leader = self._cluster, self._leader()
        cut = next((name for name in cluster.state.nodes if cluster.is_on(name)), "")
        if cut:
            cluster.cut(cut, "etcd")
        cluster.stop_etcd(leader, signal.SIGKILL)
        member = cluster.etcd.member(leader)
        shutil.rmtree(member.data_dir or member.directory / "data")

        def back() -> None:
            if cut and cluster.is_on(cut):
                cluster.heal(cut)
            self._join_again(leader)

        return f"{leader}: killed, its data gone; {cut or 'no node'} cut off from etcd", back

    def _join_again(self, name: str) -> None:
        """Take the member out and in again: it begins from nothing and gets everything from the others."""
        cluster = self._cluster
        member = cluster.etcd.member(name)
        others = [one.client_url for one in cluster.etcd.members if one.name != name]
        argv = [*cluster.etcdctl(*others), "--command-timeout=5s"]
        environment = {**tool_environment(), "ETCDCTL_API": "3"}

        def ask(*words: str) -> str:
            until_s = time.monotonic() + 60.0
            while True:  # the others may be about to elect a leader
                done = subprocess.run(
                    [*argv, *words], capture_output=True, text=True, timeout=30, check=False, env=environment
                )
                if done.returncode == 0:
                    return done.stdout
                if time.monotonic() > until_s:
                    raise Unavailable(f"etcdctl {' '.join(words)}: {done.stderr.strip()}")
                time.sleep(0.2)

        listed = json.loads(ask("member", "list", "-w", "json"))["members"]
        for one in listed:
            if one.get("name", "") in ("", name) and member.peer_url in one["peerURLs"]:
                ask("member", "remove", f"{one['ID']:x}")
        ask("member", "add", name, f"--peer-urls={member.peer_url}")
        member.extra = ("--initial-cluster-state=existing",)
        try:
            cluster.start_etcd(name, wait=False)
        finally:
            member.extra = ()

    def _by_hand(self, node: str, hold_s: float) -> tuple[str, Undo]:
        """What an administrator does with virsh while nobody looks: the agent is frozen meanwhile."""
        host = self._cluster.host(node)
        host.freeze_agent()
        doing = (("destroy",), ("destroy", "start"), ("suspend",), ("suspend", "resume"), ("reset",))
        words = doing[int(hold_s * 10) % len(doing)]
        did = []
        for name in _virsh(host, "list", "--name").split():
            for word in words:
                did.append(f"{word} {name}")
                with contextlib.suppress(
                    Unavailable
                ):  # a hand is refused too: a shut-out storage, a guest gone
                    _virsh(host, word, name)
        return f"{node}: agent frozen; by hand: {', '.join(did) or 'no guest there'}", host.thaw_agent


def _fencer(watch: subprocess.Popen[bytes], node: str) -> str:
    """The node that the first intent on the stream names; empty: none came in time."""
    assert watch.stdout is not None
    until_s = time.monotonic() + FENCE_SEEN_S
    while (left_s := until_s - time.monotonic()) > 0:
        if not select.select([watch.stdout], [], [], left_s)[0]:
            break
        line = watch.stdout.readline()
        if not line:
            raise Unavailable(f"the watch on the fence of {node} ended")
        for event in json.loads(line).get("Events") or []:
            record = _record(event)
            if record.get("intent") and record.get("intent_by"):
                return str(record["intent_by"])
    return ""


def _record(event: dict[str, dict[str, str]]) -> dict[str, object]:
    found: dict[str, object] = json.loads(base64.b64decode(event["kv"].get("value", "")) or b"{}")
    return found


def _pid(host: Host, service: str) -> int:
    return int(host.services().get(service, {}).get("pid") or 0)


def _virsh(host: Host, *words: str) -> str:
    try:
        done = subprocess.run(
            ["virsh", "-q", "-c", host.libvirt_uri, *words],
            env=host.environment(),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"virsh {' '.join(words)} did not return within 20 s") from None
    if done.returncode:
        raise Unavailable(f"virsh {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
