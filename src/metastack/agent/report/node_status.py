"""Node status: what this node publishes about itself, and when it publishes it again.

Owns: the content of ``actual/nodes/<node>`` and the pace of its changes.
Refuses: the session's own announcements (register, ready, another lease), which ask only for the content.
Rule: every change of it is an event for every agent. What is only for people to read (what the VMs here have
been promised; placement computes it from the claims) may lag, the more nodes the longer (core/rate_limits);
what others act on is published at once.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from ... import __version__
from ...core.model import NodeAlive, Resources
from ...core.protocol import claims
from ...core.rate_limits import sums_every_s
from ...core.state.keys import Kind
from ...core.state.record_versions import LEVEL, as_written_at
from ...ports import HostFacts, LocalTrouble, Refused, Unavailable
from ..context import AgentContext
from ..fencing.fencer import Fencer
from ..fencing.storage_silence import StorageSilence
from ..session.state_files import StateFiles
from .health import Health, warnings
from .machine import Machine

log = structlog.get_logger()

LOOK_EVERY_S: Final = 1.0


class NodeStatusReporter:
    """Says what this node is."""

    def __init__(
        self,
        node: AgentContext,
        fencer: Fencer,
        health: Health,
        silence: StorageSilence,
        state_files: StateFiles,
        *,
        address: str,
        console: str,
        capacity: Resources,
        machine: Machine,
        boot_id: str = "",
    ) -> None:
        """``capacity``: what the settings say instead of the machine (0: nothing)."""
        self._node, self._fencer, self._health, self._state_files = node, fencer, health, state_files
        self._silence = silence
        self._address, self._console, self._capacity, self._machine = address, console, capacity, machine
        self._boot_id = boot_id
        self._facts: HostFacts | None = None
        self._sums_said_s = 0.0

    def learn(self, facts: HostFacts) -> None:
        """What the hypervisor says of this machine."""
        self._facts = facts
        self._health.host = facts.warnings

    def reached_at(self, address: str, console: str) -> None:
        """Where this node and its console are reached: known after the start, and may change."""
        self._address, self._console = address, console

    def _whole(self, facts: HostFacts) -> Resources:
        mine, other = self._capacity, self._machine.resources | self._capacity.other
        return Resources(
            cpus=mine.cpus or facts.capacity.cpus,
            memory_mib=mine.memory_mib or facts.capacity.memory_mib,
            other={what: count for what, count in sorted(other.items()) if count},
        )

    def describe(self) -> NodeAlive:
        """What this node is right now."""
        facts, node = self._facts, self._node
        assert facts is not None
        allocated, vms = node.allocated()
        report = self._silence.next_report(node.world.alive(node.name))
        return NodeAlive(
            name=node.name,
            since=node.session.since,
            address=self._address,
            storage_address=node.addresses[0] if node.addresses else "",
            console=self._console,
            capacity=self._whole(facts),
            allocated=allocated,
            vms=vms,
            hypervisor=facts.hypervisor,
            hypervisor_why=facts.hypervisor_why,
            storage=node.storage.kind,
            bridges=node.network.bridges(),
            versions={**facts.versions, **self._machine.versions, "metastack": __version__},
            record_version=LEVEL,
            lag_ms=node.lag.reported_ms(asyncio.get_running_loop().time()),
            arch=self._machine.arch,
            # What QEMU emulates is not what this processor has.
            cpu_features=self._machine.cpu_features if facts.hypervisor == "kvm" else (),
            storage_ok=self._health.storage_ok and not report.since,
            storage_silent_since=report.since,
            storage_silent_at=report.at,
            storage_proved=report.proved,
            message=self._fencer.message or node.session.message,
            brake=self._fencer.braked,
            fence_failures=self._fencer.failures,
            warnings=self._warnings(),
            boot_id=self._boot_id,
            leaving=node.host_stops(),
            pauses=True,
            secret_keys=self._health.secret_keys,
        )

    def _warnings(self) -> tuple[str, ...]:
        node = self._node
        found = node.world.facts(node.name)
        known = found.record if found is not None else None
        try:
            pending = self._state_files.unblock_pending()
        except LocalTrouble as error:
            pending = False
            self._health.note_state_dir(str(error))
        return warnings(self._health, known, pending, node.storage.remote_fence)

    async def run(self) -> None:
        """Publish this node's state when it differs from what is published."""
        loop, node = asyncio.get_running_loop(), self._node
        while True:
            due_s = loop.time() + LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            node.lag.note(loop.time(), loop.time() - due_s)
            if not node.session.ready:
                continue
            found = node.world.alive(node.name)
            wanted = msgspec.structs.replace(self.describe(), ready=True, generation=node.session.generation)
            wanted = as_written_at(wanted, node.world.level)
            if found is not None and not self._worth_it(found.record, wanted):
                continue
            try:
                await node.commit(claims.announce(node.keys, node.session.me, wanted))
            except (Unavailable, Refused) as error:
                log.info("node_status_publish_failed", error=str(error))

    def _worth_it(self, said: NodeAlive | None, wanted: NodeAlive) -> bool:
        if said == wanted:
            return False
        now_s = asyncio.get_running_loop().time()
        only_sums = said is not None and wanted == msgspec.structs.replace(
            said, allocated=wanted.allocated, vms=wanted.vms
        )
        nodes = self._node.world.count(Kind.NODE_ALIVE)
        if only_sums and now_s - self._sums_said_s < sums_every_s(nodes):
            return False
        self._sums_said_s = now_s
        return True
