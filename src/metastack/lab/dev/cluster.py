"""The one-machine cluster: bring it up, repair it, break it on purpose, and take it away without a trace.

Owns: the order in which its parts start and end, and the record of them. Refuses: VMs and images, which are
the CLI's. Everything here blocks: call it from a thread where a loop runs.
Rule: ``up`` makes what is missing and touches nothing that runs; ``down`` needs no part of it to be alive.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import tomli_w

from metastack import contexts
from metastack.core.model import NodeAlive
from metastack.pki.subject import ROOT_USER
from metastack.ports import NotFound, Refused, Unavailable
from metastack.settings import StorageSettings, StoreSettings

from . import proc, ready, remains
from .ceph import MiniCeph
from .etcd import EtcdCluster, EtcdMember
from .fabric import Cut, Fabric, choosing, tool_environment, unmount
from .host import Host
from .identities import ADMIN, Identities
from .layout import Layout, State
from .plan import CONSOLE_PORT, ROOT, agent_config, plan
from .proc import MARKER, Proc
from .records import Records, etcdctl

Say = Callable[[str], None]
POOL = "vms"
MANAGEMENT_USER = "metastack"
READY_TIMEOUT_S = 90.0
INIT_S = 60.0


def quiet(_text: str) -> None:
    """Say nothing."""


class Cluster:
    """One cluster by name; what it is comes from its record."""

    def __init__(self, name: str = "dev") -> None:
        self.layout = Layout(name)
        self._state: State | None = None

    @property
    def state(self) -> State:
        if self._state is None:
            self._state = self.layout.need()
        return self._state

    def reread(self) -> None:
        """Take the cluster as its record says, after another process changed it."""
        self._state = None

    @property
    def namespaces(self) -> bool:
        return self.state.mode == "namespaces"

    # --- the parts

    @cached_property
    def fabric(self) -> Fabric | None:
        return Fabric(self.layout.fabric, self.state.index) if self.namespaces else None

    @property
    def prefix(self) -> tuple[str, ...]:
        """Runs a command where etcd, Ceph and consoles are reached."""
        return self.fabric.prefix if self.fabric else ()

    @cached_property
    def etcd(self) -> EtcdCluster:
        members = []
        for number in range(self.state.etcd):
            name = f"e{number + 1}"
            ports = self.state.ports
            members.append(
                EtcdMember(
                    name=name,
                    directory=self.layout.etcd / name,
                    host=self.fabric.subnets.etcd(number) if self.fabric else "127.0.0.1",
                    client_port=2379 if self.fabric else ports[f"{name}.client"],
                    peer_port=2380 if self.fabric else ports[f"{name}.peer"],
                    argv_prefix=self.prefix,
                    token=f"metastack-{self.layout.name}",
                    tls=self.identities.tls(name) if self.state.secure else None,
                )
            )
        return EtcdCluster(members)

    @cached_property
    def ceph(self) -> MiniCeph | None:
        if self.state.storage != "ceph" or self.fabric is None:
            return None
        return MiniCeph(
            self.layout.ceph,
            address=self.fabric.subnets.ceph,
            v2_port=3300,
            v1_port=6789,
            prefix=self.fabric.prefix,
        )

    @property
    def hosts(self) -> dict[str, Host]:
        short = None if self.fabric else self.layout.short
        folder = self.layout.folder
        return {
            name: Host(folder, self.layout.node(name), name, number, self.fabric, short)
            for number, name in enumerate(self.state.nodes)
        }

    def host(self, name: str) -> Host:
        try:
            return self.hosts[name]
        except KeyError:
            raise NotFound(f"no node {name}: there are {', '.join(self.state.nodes)}") from None

    def init(self, name: str) -> Proc | None:
        """A node's init while it runs."""
        recorded = self.state.procs.get(f"host.{name}")
        return recorded if recorded and proc.alive(recorded) else None

    @cached_property
    def identities(self) -> Identities:
        return Identities(self.layout.pki)

    def _store(self, user: str, endpoints: Sequence[str]) -> StoreSettings:
        if self.state.secure:
            return self.identities.store(user, endpoints, ROOT)
        return StoreSettings(endpoints=tuple(endpoints), root=ROOT)

    @property
    def records(self) -> Records:
        return Records(self.prefix, self._store(ROOT_USER, self.etcd.endpoints))

    @property
    def store_settings(self) -> StoreSettings:
        """How this machine reaches etcd from any network namespace."""
        return self._store(f"operator.{ADMIN}", self._sockets)

    def etcdctl(self, *endpoints: str) -> list[str]:
        """The beginning of a command line of etcd's administrator; default: every member."""
        return etcdctl(self.prefix, self._store(ROOT_USER, endpoints or self.etcd.endpoints))

    @property
    def root_store_settings(self) -> StoreSettings:
        """The same for etcd's own administrator, whom no rights hold."""
        return self._store(ROOT_USER, self._sockets)

    def node_store_settings(self, node: str) -> StoreSettings:
        """How an agent reaches etcd."""
        return self._store(f"node.{node}", self.etcd.endpoints)

    @property
    def _sockets(self) -> tuple[str, ...]:
        return self.etcd.tls_socket_endpoints if self.state.secure else self.etcd.socket_endpoints

    def storage_settings(self, node: str = "") -> StorageSettings:
        """For one node's agent, or for the person's commands."""
        if self.ceph:
            return self.ceph.settings(f"node-{node}" if node else MANAGEMENT_USER, POOL)
        return StorageSettings(kind="file", directory=str(self.layout.disks))

    # --- up

    def up(
        self,
        nodes: int | None = None,
        etcd: int | None = None,
        storage: str | None = None,
        ttl_s: int | None = None,
        secure: bool | None = None,
        say: Say = quiet,
        select: bool = True,
        agents: bool = True,
    ) -> None:
        """Make what is missing. None keeps what an existing cluster has (a new one: 3 nodes, 1 etcd, 5 s).

        Without ``agents`` the hosts have a libvirtd only: a laboratory for adapters.
        """
        made = not self.layout.folder.exists()
        self.layout.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self.layout.locked():
                with choosing():
                    self._state = plan(self.layout, nodes, etcd, storage, ttl_s, secure)
                    self.layout.save(self._state)
                    if self.fabric:
                        self.fabric.claim_routes()
                self._start(say, select, agents)
        except Refused:
            if made and self.layout.load() is None:
                self.layout.remove()
            raise

    def _start(self, say: Say, select: bool, agents: bool) -> None:
        begun = time.monotonic()

        def step(text: str) -> None:
            say(f"{time.monotonic() - begun:6.1f} s  {text}")

        state = self.state
        step(f"{state.mode}, {state.storage} storage: {state.why}")
        for folder in (self.layout.log, self.layout.etcd, self.layout.disks):
            folder.mkdir(exist_ok=True)
        if self.fabric:
            self.fabric.make(state.etcd, state.storage == "ceph")
            self._dnsmasq()
            step(f"network {self.fabric.subnets.control}, guests {self.fabric.subnets.guests}")
        with ThreadPoolExecutor(2) as pool:
            storage = pool.submit(self._storage)
            powered = pool.submit(self._power_on_all)
            if state.secure:
                self.identities.make(
                    {member.name: member.host for member in self.etcd.members},
                    {host.name: host.address for host in self.hosts.values()},
                )
                self.identities.give(f"operator.{ADMIN}", state.uid, state.gid)
            self._etcd()
            if state.secure:
                self.identities.apply(self.etcd.tls_socket_endpoints, ROOT)
            step(f"etcd: {', '.join(self.etcd.endpoints)}")
            self.records.configure(state.lease_ttl_s, "br0" if self.fabric else "")
            for name, init in powered.result().items():
                state.procs[f"host.{name}"] = init
            self.layout.save(state)
            step(f"{len(state.nodes)} hosts with libvirtd")
            storage.result()
            if self.ceph:
                step(f"ceph: {', '.join(self.ceph.monitors)}")
        context = contexts.Context(
            name=state.name,
            store=self.store_settings,
            storage=self.storage_settings(),
            netns=str(self.layout.fabric) if self.fabric else "",
        )
        before = contexts.load().current
        if select and before != state.name:
            state.previous_context = before
            self.layout.save(state)
        path = contexts.save_context(context, select=select)
        step(f"context {state.name} in {path}")
        self._name_storage()
        if agents:
            for host in self.hosts.values():
                self._agent(host)
            self.wait_ready()
            step(f"{len(state.nodes)} nodes ready")

    def _record(self, role: str, process: Proc) -> None:
        self.state.procs[role] = process
        self.layout.save(self.state)

    def _runs(self, role: str) -> bool:
        recorded = self.state.procs.get(role)
        return recorded is not None and proc.alive(recorded)

    def _environment(self) -> dict[str, str]:
        return {**tool_environment(), MARKER: str(self.layout.folder)}

    def _dnsmasq(self) -> None:
        if self.fabric and not self._runs("dnsmasq"):
            log = self.layout.log / "dnsmasq.log"
            argv = self.fabric.dnsmasq(self.layout.folder)
            self._record("dnsmasq", proc.spawn(argv, log, self._environment()))

    def _etcd(self) -> None:
        for member in self.etcd.members:
            self.start_etcd(member.name, wait=False)
        for member in self.etcd.members:
            asyncio.run(member.wait_ready())
            # The person behind sudo talks to etcd through this socket; nobody else may.
            sockets = [member.socket_path, *([member.tls_socket_path] if member.tls else [])]
            for path in (member.directory, *sockets):
                os.chown(path, self.state.uid, self.state.gid)

    def _storage(self) -> None:
        if self.ceph is None:
            return

        async def prepare(ceph: MiniCeph) -> None:
            if ceph.conf.exists() and ceph.keyring(MANAGEMENT_USER).exists():
                await ceph.start()
            else:
                await ceph.destroy()  # a creation that was interrupted
                await ceph.create()
                await ceph.create_pool(POOL)
                await ceph.create_management_user(MANAGEMENT_USER, POOL)
            for host in self.hosts.values():
                if not ceph.keyring(f"node-{host.name}").exists():
                    await ceph.create_node_user(f"node-{host.name}", host.address, pool=POOL)

        asyncio.run(prepare(self.ceph))

    def _name_storage(self) -> None:
        """Record which storage this cluster has, and mark that: before any agent, and by no agent."""
        verb = ("cluster", "storage", "init", "--reason", "made by dev up")
        argv = [sys.executable, "-m", "metastack.cli.main", *verb, "--context", self.state.name]
        # A program of its own: nothing may be forked here after gRPC is loaded.
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INIT_S, check=False
        )
        if done.returncode:
            raise Unavailable(f"the storage of {self.state.name} was not recorded: {done.stderr.strip()}")

    def _power_on_all(self) -> dict[str, Proc]:
        # Not recorded here, because another thread writes the record too; the marker finds them meanwhile.
        return {name: self.init(name) or host.power_on() for name, host in self.hosts.items()}

    def _agent(self, host: Host) -> None:
        port = CONSOLE_PORT if self.fabric else self.state.ports[f"{host.name}.console"]
        config = agent_config(host, port, self.node_store_settings(host.name), self.storage_settings(host.name))
        host.agent_config.write_text(tomli_w.dumps(config))
        host.start_agent()

    def wait_ready(
        self, timeout_s: float = READY_TIMEOUT_S, names: Sequence[str] | None = None, say: Say = quiet
    ) -> None:
        """Wait until nodes say ready; raises Unavailable with the agents' logs.

        ``names``: which, else every one that is switched on. ``say`` hears what they say of themselves.
        """
        waiting = [name for name in self.state.nodes if self.init(name)] if names is None else names
        ready.wait_ready(waiting, self.alive, lambda name: self.host(name).agent_log, timeout_s, say)

    def alive(self) -> dict[str, NodeAlive]:
        """Nodes that etcd knows to be alive; empty when etcd does not answer."""
        try:
            return self.records.ready()
        except Unavailable:
            return {}

    # --- parts on their own, for people and tests

    def start_etcd(self, name: str, wait: bool = True) -> None:
        """Start a member that does not run."""
        member = self.etcd.member(name)
        if not self._runs(f"etcd.{name}"):
            member.directory.mkdir(parents=True, exist_ok=True)
            member.directory.chmod(0o700)
            for path in (member.socket_path, member.tls_socket_path):
                path.unlink(missing_ok=True)
            log = member.directory.absolute() / "etcd.log"
            process = proc.spawn(member.argv(), log, self._environment(), cwd=member.directory)
            self._record(f"etcd.{name}", process)
        if wait:
            self._etcd()

    def stop_etcd(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a member; its data stays."""
        if recorded := self.state.procs.get(f"etcd.{name}"):
            proc.stop([recorded], how=how)

    def signal_etcd(self, name: str, how: signal.Signals) -> None:
        """SIGSTOP and SIGCONT make an outage without an end of the process."""
        proc.send(self.state.procs[f"etcd.{name}"], how)

    def is_on(self, name: str) -> bool:
        """Whether the node is switched on."""
        self.host(name)
        return self.init(name) is not None

    def kill_node(self, name: str) -> bool:
        """Power cut; off already is fine, and False."""
        self.host(name)
        if init := self.init(name):
            self.host(name).cut_power(init)
            return True
        return False

    def start_node(self, name: str, agent: bool = True) -> None:
        """Switch a node on again, as the same machine; on already is fine."""
        host = self.host(name)
        if not self.init(name):
            self._record(f"host.{name}", host.power_on())
        if agent:
            self._agent(host)

    def cut(self, name: str, what: Cut = "all") -> None:
        """Drop a node's packets to etcd, storage or everybody."""
        fabric, init = self._cuttable(name)
        fabric.cut(init.pid, what, self.state.etcd)

    def heal(self, name: str) -> None:
        """Take back every cut of a node."""
        fabric, init = self._cuttable(name)
        fabric.heal(init.pid)

    def _cuttable(self, name: str) -> tuple[Fabric, Proc]:
        self.host(name)
        init = self.init(name)
        if self.fabric is None:
            raise Refused(f"{name} shares this machine's network, which cannot be cut ({self.state.why})")
        if init is None:
            raise Refused(f"{name} is off: metastack dev start-node {name}")
        return self.fabric, init

    # --- down

    def down(self, say: Say = quiet) -> None:
        """End and remove everything, whatever is left of it. Raises NotFound when there is nothing."""
        say(f"takes away {remains.losses(self.layout)}")
        self.layout.folder.mkdir(parents=True, exist_ok=True)
        with self.layout.locked():
            state = self._state = remains.record(self.layout)
            if state:
                for name in state.nodes:
                    if state.mode == "plain" or os.path.ismount(self.layout.fabric):
                        self.kill_node(name)
                proc.stop([p for p in state.procs.values() if proc.alive(p)], how=signal.SIGKILL)
                if self.ceph and self.ceph.directory.exists():
                    # Its data goes too: no reason to wait for a graceful end.
                    for daemon in self.ceph.status().running:
                        self.ceph.kill(daemon)
                    asyncio.run(self.ceph.destroy())
                say("hosts, etcd and storage ended")
            left = remains.processes(self.layout)
            fabric = self.fabric if state else remains.fabric(self.layout, left)
            while left:
                proc.stop(left, how=signal.SIGKILL)
                left = remains.processes(self.layout)
            if fabric:
                fabric.remove()
            else:
                unmount(self.layout.fabric)
            self.layout.remove()
        back_to = contexts.remove_context(self.layout.name, state.previous_context if state else "")
        say(
            "state folder and context removed"
            + (f"; the current context is {back_to} again" if back_to else "")
        )
        if not state and fabric is None:
            for command in remains.stray_routes():
                say(f"the owner of this route is unknown; if no other cluster uses it: {command}")
