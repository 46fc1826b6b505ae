"""Addresses learned from frames: pure parsing of Ethernet, ARP and DHCP, and the kernel's filter for them.

Refuses: trusting a guest. What is learned here is shown to people; nothing is decided by it.
"""

from __future__ import annotations

import struct
from typing import Final

_ARP: Final = 0x0806
_IPV4: Final = 0x0800
_UDP: Final = 17
_DHCP_PORTS: Final = (67, 68)
_COOKIE: Final = b"\x63\x82\x53\x63"
_OPTIONS_START: Final = 240
_OPTION_REQUESTED: Final = 50
_OPTION_TYPE: Final = 53
_REQUEST: Final = 3
_ACK: Final = 5

SNAP_LENGTH: Final = 1024
"""Bytes of a frame that are looked at: DHCP's options begin at 282."""

BPF: Final[tuple[tuple[int, int, int, int], ...]] = (
    (0x28, 0, 0, 12),  # 0  ldh [12]             ethertype
    (0x15, 10, 0, _ARP),  # 1  jeq ARP -> accept
    (0x15, 0, 10, _IPV4),  # 2  jeq IPv4, else drop
    (0x30, 0, 0, 23),  # 3  ldb [23]             protocol
    (0x15, 0, 8, _UDP),  # 4  jeq UDP, else drop
    (0x28, 0, 0, 20),  # 5  ldh [20]             fragment offset
    (0x45, 6, 0, 0x1FFF),  # 6  jset -> drop
    (0xB1, 0, 0, 14),  # 7  ldx 4*([14]&0xf)     length of the IP header
    (0x48, 0, 0, 16),  # 8  ldh [x+16]           destination port
    (0x15, 2, 0, 67),  # 9  jeq 67 -> accept
    (0x15, 1, 0, 68),  # 10 jeq 68 -> accept
    (0x06, 0, 0, 0),  # 11 ret 0                 drop
    (0x06, 0, 0, SNAP_LENGTH),  # 12 ret         accept
    (0x06, 0, 0, 0),  # 13 ret 0                 drop
)
"""Classic BPF (code, jt, jf, k): ARP, and UDP to a DHCP port."""


def learn(frame: bytes) -> tuple[str, str] | None:
    """(MAC, IPv4 address) that this frame shows, or None."""
    if len(frame) < 14:
        return None
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind == _ARP:
        return _from_arp(frame[14:])
    if kind == _IPV4:
        return _from_ipv4(frame[14:])
    return None


def _from_arp(arp: bytes) -> tuple[str, str] | None:
    if len(arp) < 28 or arp[:6] != b"\x00\x01\x08\x00\x06\x04":
        return None
    return _pair(arp[8:14], arp[14:18])


def _from_ipv4(packet: bytes) -> tuple[str, str] | None:
    if len(packet) < 28 or packet[9] != _UDP:
        return None
    udp = packet[(packet[0] & 0x0F) * 4 :]
    if len(udp) < 8 or struct.unpack_from("!H", udp, 2)[0] not in _DHCP_PORTS:
        return None
    return _from_dhcp(udp[8:])


def _from_dhcp(message: bytes) -> tuple[str, str] | None:
    """The lease that a server grants, or the address that a client asks for by name.

    The answer may pass a bridge without being seen (unicast between two of its ports); the request may not.
    """
    if len(message) < _OPTIONS_START or message[1:3] != b"\x01\x06" or message[236:240] != _COOKIE:
        return None
    options = _options(message[_OPTIONS_START:])
    kind, mac = options.get(_OPTION_TYPE, b""), message[28:34]
    if kind == bytes([_ACK]):
        return _pair(mac, message[16:20])
    if kind == bytes([_REQUEST]):
        return _pair(mac, options.get(_OPTION_REQUESTED) or message[12:16])
    return None


def _options(raw: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 1 < len(raw) and raw[at] != 255:
        if raw[at] == 0:
            at += 1
            continue
        length = raw[at + 1]
        found[raw[at]] = raw[at + 2 : at + 2 + length]
        at += 2 + length
    return found


def _pair(mac: bytes, address: bytes) -> tuple[str, str] | None:
    if len(mac) != 6 or len(address) != 4 or mac[0] & 1 or address[0] in (0, 127) or address[0] >= 224:
        return None
    return mac.hex(":"), ".".join(map(str, address))
