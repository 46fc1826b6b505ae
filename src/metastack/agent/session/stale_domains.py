"""Stale domains: guests that a fence reached or that a restored etcd disowns are killed at a session's end.

Owns: the choice, before a registration, and saying it. Refuses: asking whether it is a pity.
Rule: kill *and undefine*, before this node is registered: nodes that see it registered rely on that.
"""

from __future__ import annotations

import structlog

from ...core.domains import Domain, of_another
from ...core.protocol.restored import uncovered
from ...core.state.cluster_state import ClusterState
from ...ports import Hypervisor, Refused

log = structlog.get_logger()


async def kill_lost(
    hypervisor: Hypervisor, world: ClusterState, me: str, through: int, shut_out: bool
) -> list[Domain]:
    """Kill what runs under a session up to ``through`` or without a claim after a restore; all, if shut out.

    Returns the domains that were killed.
    """
    everything, killed = await hypervisor.domains(), list[Domain]()
    # Safety: another node's guest is ended by that node, or by a person; this one is not ready meanwhile.
    domains = [domain for domain in everything if not of_another(domain, me)]
    disowned = {domain.uuid for domain in uncovered(world, me, domains)}
    for domain in domains:
        if domain.damaged:
            if not (shut_out or _lost(world, me, through, domain)):
                continue
            why = "its metadata cannot be read, and it is blocked or claimed elsewhere"
            log.error("damaged_domain_killed", domain=domain.name, uuid=domain.uuid, why=why)
        elif not domain.managed:
            continue
        elif shut_out:
            why = "the storage blocks this node"
        elif domain.session <= through:
            why = "fenced"
        elif domain.uuid in disowned:
            why = "etcd was restored, and has no claim of this run"
        else:
            continue
        log.warning(
            "killed",
            vm=_called(world, domain),
            uuid=domain.uuid,
            session=domain.session,
            epoch=domain.epoch,
            why=why,
        )
        await hypervisor.kill(domain.uuid)
        killed.append(domain)
    await _kill_unknown(hypervisor, world, me, through, shut_out, {domain.uuid for domain in everything})
    return killed


async def _kill_unknown(
    hypervisor: Hypervisor, world: ClusterState, me: str, through: int, shut_out: bool, known: set[str]
) -> None:
    """Kill QEMUs of our VMs that libvirtd has no domain of.

    Safety: once this node's block is lifted they would write again, and the new owners of their VMs write too.
    """
    for uuid, pid in (await hypervisor.emulators()).items():
        claims = [c.record for _, c in world.claims() if c.record is not None and c.record.uuid == uuid]
        specs = [s.record for _, s in world.specs() if s.record is not None and s.record.uuid == uuid]
        lost = any(claim.node != me or claim.session <= through for claim in claims)
        if uuid not in known and (lost or (shut_out and (claims or specs))):
            log.warning("orphan_qemu_killed", uuid=uuid, pid=pid, why="fenced, and libvirtd does not know it")
            await hypervisor.kill(uuid)


def _called(world: ClusterState, domain: Domain) -> str:
    """The name of a domain's VM; of a damaged one by its claim or spec, or else the domain's own."""
    if not domain.damaged:
        return f"{domain.project}/{domain.name}"
    claims = (vm for vm, c in world.claims() if c.record is not None and c.record.uuid == domain.uuid)
    specs = (vm for vm, s in world.specs() if s.record is not None and s.record.uuid == domain.uuid)
    return str(next(claims, None) or next(specs, None) or domain.name)


def _lost(world: ClusterState, me: str, through: int, domain: Domain) -> bool:
    """Somebody else may run the VM of a domain that does not say itself which epoch it is of.

    Raises Refused when only a person can tell.
    """
    facts = world.facts(me)
    written = facts.record.generation if facts is not None and facts.record is not None else 0
    if world.generation > written:
        # Safety: after a restore only the epoch in its metadata could prove it.
        raise Refused(
            f"etcd was restored, and the metadata of the domain {domain.name} ({domain.uuid}) cannot be read: "
            f"nothing proves that it may run; virsh destroy and undefine it"
        )
    claims = [c.record for _, c in world.claims() if c.record is not None and c.record.uuid == domain.uuid]
    return any(claim.node != me or claim.session <= through for claim in claims)


async def refuse_damaged(hypervisor: Hypervisor) -> None:
    """Raise Refused while a domain of ours is here that does not say what it is."""
    for domain in await hypervisor.domains():
        if domain.damaged:
            raise Refused(f"the domain {domain.name} is blocked but still here: rejoining from the start")
