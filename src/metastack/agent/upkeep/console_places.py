"""Console places: how many connections may wait while their tickets are not proven yet.

Owns: how many unproven connections there are, of one address and in all, and which has to go for the next.
Refuses: reading what they carry. Consoles that are open are counted elsewhere: strangers never take their
places.
Rule: the newest gets in. A ticket holder speaks at once, so the connection that was quiet for longest makes
way, of the same address first. A newcomer is refused only if every ticket is being looked up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

from msgspec import Struct

MOST_WAITING: Final = 64
MOST_OF_ONE: Final = 8
"""Unproven connections of one address (IPv6: of one /64, which one host has at will)."""


class Visitor(Struct, eq=False):
    """A connection that has shown no ticket yet."""

    origin: str
    turn_away: Callable[[], None]
    silent: bool = True
    """It has sent nothing yet."""


class ConsolePlaces:
    """Connections without a ticket yet, the oldest first."""

    def __init__(self) -> None:
        self._waiting: list[Visitor] = []

    def admit(self, visitor: Visitor) -> bool:
        """Let it in, at the cost of a silent one if need be; False: there is no place."""
        same = [other for other in self._waiting if other.origin == visitor.origin]
        for crowd, most in ((same, MOST_OF_ONE), (self._waiting, MOST_WAITING)):
            if len(crowd) < most:
                continue
            oldest = next((other for other in crowd if other.silent), None)
            if oldest is None:
                return False
            self._waiting.remove(oldest)
            oldest.turn_away()
        self._waiting.append(visitor)
        return True

    def leave(self, visitor: Visitor) -> None:
        """It has shown what it has, or is gone; one that was turned away left already."""
        if visitor in self._waiting:
            self._waiting.remove(visitor)


def origin_of(peer: object) -> str:
    """What counts as one address: ``peer`` is the socket's ``peername``."""
    host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
