"""The agent's composition root: settings in, adapters joined to the logic, signals out."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from functools import partial
from pathlib import Path

import structlog
import uvloop

from ..core.model import Resources
from ..core.state.cluster_state import ClusterState
from ..core.state.keys import Keys
from ..hypervisor.libvirt.hypervisor import LibvirtHypervisor
from ..network.linux import LinuxNetwork
from ..pki.own import OwnCertificate
from ..ports import Broken, local_io
from ..secrets import keyring
from ..storage.choose import build
from ..store.etcd.store import EtcdStore
from ..telemetry import logs
from ..telemetry.syslog import Syslog
from .agent import Agent
from .clock import Clock
from .fencing.watchdog import Watchdog, WatchdogDevice
from .report.addresses import NodeAddresses, whereabouts
from .report.machine import machine
from .session.other_boot import read_boot_id
from .session.state_files import StateFiles
from .settings import AgentSettings
from .upkeep import gc_tuning as garbage
from .upkeep.console import ConsoleServer
from .upkeep.host_state import host_stops
from .upkeep.systemd import Notifier
from .waiting import retry_until_stopped

log = structlog.get_logger()


async def serve(settings: AgentSettings) -> None:
    """Run one agent until SIGTERM or SIGINT; guests run on."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    state_files = StateFiles(Path(settings.state_dir))
    vnc = Path(settings.run_dir) / "vnc"
    await retry_until_stopped("state_dir", lambda: _prepare(state_files, vnc), stop)
    if stop.is_set():
        return
    syslog = Syslog(host=settings.name)
    logs.forward_to(syslog.offer)

    def config_changed(world: ClusterState) -> None:
        syslog.set_target(world.config.syslog)

    async def where() -> NodeAddresses:
        return await whereabouts(settings.endpoints, settings.address, settings.console_listen)

    store, notifier = EtcdStore(settings.store), Notifier()
    agent = Agent(
        name=settings.name,
        keys=Keys(settings.root),
        store=store,
        storage=build(settings.storage),
        hypervisor=LibvirtHypervisor(
            settings.libvirt_uri,
            force="" if settings.hypervisor == "auto" else settings.hypervisor,
            barrier_command=settings.libvirtd_restart_command,
            vnc_dir=str(vnc),
            probe_cache=str(Path(settings.state_dir) / "kvm-probe.json"),
        ),
        network=LinuxNetwork(),
        state_files=state_files,
        clock=Clock(),
        addresses=settings.storage_addresses,
        address=settings.address,
        capacity=Resources(cpus=settings.cpus, memory_mib=settings.memory_mib, other=dict(settings.resources)),
        machine=machine(),
        boot_id=read_boot_id(settings.boot_id_file),
        workers=settings.workers,
        boots_at_once=settings.boots_at_once,
        watchdog_device=settings.watchdog_device,
        keyring=partial(keyring.read, Path(settings.secrets_key_file)),
        certificate=OwnCertificate(settings.cert).warning if settings.cert else str,
        guest_secret=settings.storage.guest_secret,
        config_changed=config_changed,
        host_stops=lambda: host_stops(settings.host_state_command),
        extend=notifier.extend,
    )
    log.info("agent_started", node=settings.name, endpoints=list(settings.endpoints))
    try:
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(syslog.run()),
                group.create_task(notifier.watchdog()),
                group.create_task(_tidy_once(agent)),
                group.create_task(ConsoleServer(agent.node, where, agent.console_trouble, agent.reached).run()),
            ]
            if settings.watchdog_device:
                guard = Watchdog(agent.node, WatchdogDevice(settings.watchdog_device))
                helpers.append(group.create_task(guard.run()))
            await agent.run(stop, lambda: notifier.say("READY=1"))
            notifier.say("STOPPING=1")
            for helper in helpers:
                helper.cancel()
    finally:
        await syslog.close(2.0)
        await store.close()
        state_files.unlock()
    log.info("agent_stopped", node=settings.name)


async def _prepare(state_files: StateFiles, vnc: Path) -> None:
    """What has to be on this host's disk before anything else; raises LocalTrouble."""
    state_files.lock()
    state_files.node_uuid(str(uuid.uuid4()))
    state_files.etcd()
    with local_io(f"making {vnc}"):
        os.makedirs(vnc, exist_ok=True)


async def _tidy_once(agent: Agent) -> None:
    await agent.node.informer.listed.wait()
    garbage.freeze_startup_objects()


def run(settings: AgentSettings) -> int:
    """Entry: uvloop, logs, exit code."""
    logs.configure(settings.log_format, settings.log_level, settings.name)
    garbage.collect_rarely()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except BaseException as error:
        # The error may sit in groups of groups; what ends the agent must be in the log, whatever it is.
        found = _innermost(error)
        if isinstance(found, Broken):
            log.error("agent_broken", node=settings.name, error=str(found))
        else:
            log.exception("agent_crashed", node=settings.name, error=f"{type(found).__name__}: {found}")
        return 1
    return 0


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
