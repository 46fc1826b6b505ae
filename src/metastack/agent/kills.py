"""What must not outlive the end of a session: domains that a fence reached, or that a restored etcd disowns.

Owns: the choice, before a registration, and saying it. Refuses: asking whether it is a pity.
Rule: kill *and undefine*, before this node is registered: whoever sees it registered relies on that.
"""

from __future__ import annotations

import structlog

from ..core.restored import uncovered
from ..core.world import World
from ..ports import Hypervisor

log = structlog.get_logger()


async def kill_lost(hypervisor: Hypervisor, world: World, me: str, through: int, shut_out: bool) -> None:
    """Kill what runs under a session up to ``through`` or without a claim after a restore; all, if shut out."""
    domains = await hypervisor.domains()
    disowned = {domain.uuid for domain in uncovered(world, me, domains)}
    for domain in domains:
        if not domain.managed:
            continue
        if shut_out:
            why = "this node is shut out of the storage"
        elif domain.session <= through:
            why = "fenced"
        elif domain.uuid in disowned:
            why = "etcd was restored, and has no claim of this run"
        else:
            continue
        log.warning(
            "killed",
            vm=f"{domain.project}/{domain.name}",
            uuid=domain.uuid,
            session=domain.session,
            epoch=domain.epoch,
            why=why,
        )
        await hypervisor.kill(domain.uuid)
