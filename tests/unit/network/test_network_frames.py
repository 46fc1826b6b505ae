"""What frames teach, and what they must not."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastack.network.frames import learn

MAC = bytes.fromhex("525400123456")
ADDRESS = bytes([10, 99, 0, 7])


def arp(mac: bytes = MAC, address: bytes = ADDRESS, operation: int = 1) -> bytes:
    head = b"\xff" * 6 + mac + b"\x08\x06"
    return head + b"\0\1\x08\0\6\4" + struct.pack("!H", operation) + mac + address + b"\0" * 10


def dhcp(kind: int, *, yiaddr: bytes = b"\0" * 4, options: bytes = b"", ihl: int = 5) -> bytes:
    message = bytes([2 if kind == 5 else 1, 1, 6, 0]) + b"\0" * 12 + yiaddr + b"\0" * 8 + MAC
    message = message.ljust(236, b"\0") + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + options + b"\xff"
    ports = (67, 68) if kind in (2, 5) else (68, 67)
    udp = struct.pack("!HHHH", *ports, 8 + len(message), 0) + message
    header = struct.pack("!BBHIBBH", 0x40 | ihl, 0, ihl * 4 + len(udp), 0, 64, 17, 0) + b"\0" * 8
    header += b"\1" * (ihl - 5) * 4
    total = sum(struct.unpack(f"!{ihl * 2}H", header))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    # A bridge that hands packets to netfilter drops those whose header does not add up.
    return b"\xff" * 6 + MAC + b"\x08\x00" + header[:10] + struct.pack("!H", checksum) + header[12:] + udp


KNOWN = ("52:54:00:12:34:56", "10.99.0.7")


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        pytest.param(arp(), KNOWN, id="arp request"),
        pytest.param(arp(operation=2), KNOWN, id="arp reply"),
        pytest.param(arp(address=b"\0" * 4), None, id="arp probe: no address yet"),
        pytest.param(arp(mac=b"\xff" * 6), None, id="arp from a multicast address"),
        pytest.param(arp(address=bytes([224, 0, 0, 1])), None, id="arp of a multicast address"),
        pytest.param(arp()[:30], None, id="arp cut short"),
        pytest.param(dhcp(5, yiaddr=ADDRESS), KNOWN, id="dhcp ack"),
        pytest.param(dhcp(5, yiaddr=ADDRESS, ihl=7), KNOWN, id="dhcp ack, IP with options"),
        pytest.param(dhcp(3, options=bytes([0, 50, 4]) + ADDRESS), KNOWN, id="dhcp request"),
        pytest.param(dhcp(2, yiaddr=ADDRESS), None, id="dhcp offer: not taken yet"),
        pytest.param(dhcp(1), None, id="dhcp discover"),
        pytest.param(b"", None, id="nothing"),
    ],
)
def test_frames(frame: bytes, found: tuple[str, str] | None) -> None:
    assert learn(frame) == found


@given(st.binary(max_size=600), st.sampled_from([b"\x08\x06", b"\x08\x00"]))
def test_garbage_never_raises(noise: bytes, kind: bytes) -> None:
    learn(noise)
    learn(b"\xff" * 12 + kind + noise)


@given(st.integers(0, 600))
def test_a_dhcp_message_cut_anywhere_never_raises(length: int) -> None:
    learn(dhcp(3, options=bytes([50, 4]) + ADDRESS)[:length])
