"""The network of one simulated machine: guests with a service have an address, and answer when told to.

Owns: addresses and answers. Refuses: whatever else networks do; no other guest is ever asked for its address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....core.domains import DomainState
from ....network.twin import MemoryNetwork

if TYPE_CHECKING:
    from .host import SimHost


class GuestNetwork(MemoryNetwork):
    """What an agent on that machine sees."""

    def __init__(self, host: SimHost) -> None:
        super().__init__()
        self._host = host

    def addresses(self, mac: str) -> tuple[str, ...]:
        found = self._host.lab.operator.service(mac)
        return (f"10.8.0.{int(mac[-2:], 16)}",) if found is not None else ()

    async def answers(self, address: str, port: int, timeout_s: float) -> bool:
        operator = self._host.lab.operator
        return any(
            domain.name in operator.answering and domain.state is DomainState.RUNNING
            for domain in self._host.hypervisor.active()
            if (spec := operator.spec(domain.name)) is not None
            and (spec.ha.ready_port, domain.uuid) == (port, spec.uuid)
            and address in {a for nic in spec.nics for a in self.addresses(nic.mac)}
        )
