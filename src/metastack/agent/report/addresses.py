"""Addresses of this node: the one that it publishes, and the one that its console listens at.

Owns: which of this host's addresses routes to etcd. Refuses: sending anything; the kernel is asked.
Rule: no address that means another machine to its reader (loopback, the unspecified one) is published while
this host has a better one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from contextlib import suppress
from typing import Final

from msgspec import Struct

LOOK_UP_S: Final = 5.0
"""Deadline of looking one host name up."""
CONSOLE_PORT: Final = 7410
_BY_DEFAULT: Final = ("192.0.2.1", "2001:db8::1")
"""Addresses that nobody has (RFC 5737, RFC 3849): the default route leads there, if there is one."""
_WEB: Final = re.compile(r"(https?://)?(\[(?P<v6>[^\]]+)\]|(?P<host>[^:/]+))(:(?P<port>[0-9]+))?/?")


class NodeAddresses(Struct, frozen=True, kw_only=True):
    """Where this node is reached."""

    address: str
    """Published: an IP address."""
    listen: tuple[str, int]
    """Where the console listens; ``::`` and ``0.0.0.0`` are every address of this host."""

    @property
    def console(self) -> str:
        """Published: ``host:port`` of the console, an IPv6 address in brackets."""
        host, port = self.listen
        return with_port(self.address if _is_any(host) else host, port)


def with_port(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def whereabouts(endpoints: tuple[str, ...], address: str, console_listen: str) -> NodeAddresses:
    """What the settings say; what they leave open is the address that routes to etcd."""
    address = address or await routed(endpoints)
    if not console_listen:
        return NodeAddresses(address=address, listen=(address, CONSOLE_PORT))
    host, _, port = console_listen.rpartition(":")
    return NodeAddresses(address=address, listen=(host.strip("[]") or "::", int(port)))


async def routed(endpoints: tuple[str, ...]) -> str:
    """This host's address towards etcd; where etcd is on this very host, the default route's."""
    found = [address for endpoint in endpoints if (address := await _towards(endpoint))]
    found += [address for target in _BY_DEFAULT if (address := _source(target, CONSOLE_PORT))]
    away = [address for address in found if not ipaddress.ip_address(address).is_loopback]
    return (away or ["127.0.0.1"])[0]


async def _towards(endpoint: str) -> str:
    named = _WEB.fullmatch(endpoint)
    if named is None:
        return ""
    host, port = named["v6"] or named["host"], int(named["port"] or 2379)
    # A name that no resolver takes, a port that none is: the client that connects to it says so.
    with suppress(OSError, TimeoutError, UnicodeError, OverflowError):
        async with asyncio.timeout(LOOK_UP_S):
            for *_, target in await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM):
                if address := _source(str(target[0]), port):
                    return address
    return ""


def _source(target: str, port: int) -> str:
    """Which of this host's addresses the kernel would send from; empty: there is no way there."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as plug:
            plug.connect((target, port))  # of a datagram socket: nothing is sent
            address = str(plug.getsockname()[0])
    except OSError:
        return ""
    return "" if "%" in address or _is_any(address) else address


def _is_any(host: str) -> bool:
    return ipaddress.ip_address(host).is_unspecified


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound socket; ``::`` takes IPv4 in too. Raises OSError."""
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, dualstack_ipv6=host == "::")
