"""The network of one simulated machine: guests with a service have an address, and answer when told to.

Owns: addresses and answers. Refuses: whatever else networks do; no other guest is ever asked for its address.
"""

from __future__ import annotations

from ....core.domains import DomainState
from ....hypervisor.twin.hypervisor import MemoryHypervisor
from ....network.twin import MemoryNetwork
from .operator import Operator


class GuestNetwork(MemoryNetwork):
    """What an agent on that machine sees."""

    def __init__(self, operator: Operator, hypervisor: MemoryHypervisor) -> None:
        super().__init__()
        self._operator, self._hypervisor = operator, hypervisor

    def addresses(self, mac: str) -> tuple[str, ...]:
        found = self._operator.service(mac)
        return (f"10.8.0.{int(mac[-2:], 16)}",) if found is not None else ()

    async def answers(self, address: str, port: int, timeout_s: float) -> bool:
        operator = self._operator
        return any(
            domain.name in operator.answering and domain.state is DomainState.RUNNING
            for domain in self._hypervisor.active()
            if (spec := operator.spec(domain.name)) is not None
            and (spec.ha.ready_port, domain.uuid) == (port, spec.uuid)
            and address in {a for nic in spec.nics for a in self.addresses(nic.mac)}
        )
