"""What "all is well" means: every VM that should run runs once, and what should not be is not.

Owns: the comparison of specs with machines, etcd and pool. Refuses: patience; the lab asks again.
"""

from __future__ import annotations

from ....core.domains import Domain, DomainState
from ....core.model import (
    Claim,
    Fence,
    Halt,
    NodeAlive,
    Phase,
    Power,
    VmId,
    VmSpec,
    VmStatus,
    token,
    token_generation,
)
from ....core.state.cluster_state import seen
from ....core.state.codec import decode
from ....core.state.keys import Kind
from ....core.transaction import Entry
from ..engine.lab import Lab


def wanted_on(spec: VmSpec, halt: Halt | None) -> bool:
    """The spec wants it on, and its guest did not switch itself off in this run; apart from the judged code."""
    halted = halt is not None and halt.uuid == spec.uuid and halt.run >= spec.run
    return spec.power is Power.ON and not halted


def wrong(lab: Lab) -> list[str]:
    """Everything that is not as specified; empty when all is well."""
    keys, cluster = lab.keys, lab.cluster
    found: list[str] = []

    def under(kind: Kind) -> list[tuple[VmId, Entry]]:
        return [(key.vm, e) for e in cluster.under(keys.prefix(kind)) if (key := keys.parse(e.key)) is not None]

    domains: dict[str, list[tuple[str, Domain]]] = {}
    for host in lab.hosts.values():
        for domain in host.hypervisor.known():
            if domain.managed:
                domains.setdefault(domain.uuid, []).append((host.name, domain))
        if host.shut_out():
            found.append(f"{host.name} is shut out of the storage")
    sessions: dict[str, int] = {}
    for node in lab.hosts:
        entry = cluster.get(keys.node_alive(node))
        if entry is None or not decode(NodeAlive, entry.value).ready:
            found.append(f"{node} is not ready")
        else:
            sessions[node] = token(decode(NodeAlive, entry.value).generation, entry.create_revision)
        fence = cluster.get(keys.fence(node))
        if fence is not None and decode(Fence, fence.value).intent:
            found.append(f"the fence of {node} is unfinished")

    specs = {vm: decode(VmSpec, entry.value) for vm, entry in under(Kind.VM_SPEC)}
    claims = {vm: seen(Claim, entry).ok for vm, entry in under(Kind.CLAIM)}
    statuses = {vm: decode(VmStatus, entry.value) for vm, entry in under(Kind.VM_STATUS)}
    running: set[str] = set()
    for vm, spec in specs.items():
        raw = cluster.get(keys.halt(vm))
        halt = decode(Halt, raw.value) if raw is not None else None
        if not wanted_on(spec, halt):
            continue
        running.add(spec.uuid)
        if _lost(lab, spec, statuses.get(vm)):
            continue
        why = _runs(spec, domains.get(spec.uuid, []), claims.get(vm), statuses.get(vm), sessions)
        if why:
            found.append(f"{vm} {why}")
        elif spec.volume_uuid not in lab.pool.disks:
            found.append(f"{vm} has lost its disk")
    for uuid, where in domains.items():
        if uuid not in running:
            found.append(f"{where[0][1].project}/{where[0][1].name} {uuid} is still on {where[0][0]}")
    for vm in sorted(claims.keys() | statuses.keys()):
        if vm not in specs or specs[vm].uuid not in running:
            found.append(f"{vm} is off and still claimed, or has a status")
    kept = {spec.volume_uuid for spec in specs.values()}
    found.extend(f"disk {uuid} is left over" for uuid in lab.pool.disks if uuid not in kept | lab.forgotten)
    for entry in cluster.under(keys.prefix(Kind.VOLUME)):
        if entry.key.rsplit("/", 1)[1] not in kept:
            found.append(f"the record of disk {entry.key} is left over")
    return found


def _lost(lab: Lab, spec: VmSpec, status: VmStatus | None) -> bool:
    """A VM that was deleted after the backup: its disk went with it, and its owner says so."""
    lost = spec.volume_uuid in lab.forgotten and spec.volume_uuid not in lab.pool.disks
    return lost and status is not None and status.phase is Phase.FAILED and "is missing" in status.message


def _runs(
    spec: VmSpec,
    where: list[tuple[str, Domain]],
    claim: Claim | None,
    status: VmStatus | None,
    sessions: dict[str, int],
) -> str:
    """Why a VM that should run does not run as it should; empty when it does."""
    if len(where) != 1:
        return f"is on {[name for name, _ in where] or 'no node'}" + (
            f", claimed by {claim.node}" if claim else ""
        )
    node, domain = where[0]
    if claim is None or claim.node != node or claim.uuid != spec.uuid:
        return f"is on {node} and claimed by {claim.node if claim else 'nobody'}"
    if claim.session != sessions.get(node):
        return f"is claimed in session {claim.session}, {node} has {sessions.get(node)}"
    # A restored etcd may have forgotten a restart that the guest had.
    run = max(spec.run, domain.run) if token_generation(claim.session) else spec.run
    if (domain.session, domain.epoch, domain.run) != (claim.session, claim.epoch, run):
        return f"runs as session {domain.session} epoch {domain.epoch} run {domain.run}: {claim}"
    paused = spec.paused_epoch == claim.epoch
    if domain.state is not (DomainState.PAUSED if paused else DomainState.RUNNING):
        return f"is {domain.state.value} on {node}"
    if status is None:
        return "has no status"
    epoch = status.epoch or claim.epoch
    phase = Phase.PAUSED if paused else Phase.RUNNING
    if (status.phase, status.node, status.session, epoch) != (phase, node, claim.session, claim.epoch):
        return f"has a wrong status: {status.phase.value} on {status.node} in {status.session}, epoch {epoch}"
    return ""
