"""The rights of a node's guests in Ceph, before and after a fence, in words that a mon capability can compare.

Owns: these texts; whoever makes cephx users and whoever takes rights must use the same ones.
Refuses: Ceph itself: nothing here needs it installed.
Rule: every kind of right is named in both, so that a program that is merely wrong can give nothing else.

It does not hold back an attacker on a node: when a kind is named twice, Ceph's monitor compares the last and
carries out the first (tests/contract/storage). A user that may set rights at all can have every right. So
guests' users are a choice, for clusters whose nodes are trusted with Ceph anyway (docs/internals/safety.md).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from metastack.ports.accounts import NODE_USERS

Rights = dict[str, str]

NO_RIGHTS: Final[Rights] = {
    "mon": "allow r",
    "osd": "allow r pool=fenced",
    "mgr": "allow r",
    "mds": "allow r path=/fenced",
}
"""Of a guests' user whose node is fenced: it reaches the monitors, and no disk."""
GUESTS: Final = "-guests"
"""A guests' user is called after its node's, so that one capability covers all of them."""


def guest_rights(pool: str) -> Rights:
    """Of a guests' user whose node is not fenced."""
    rights = f"profile rbd pool={pool}"
    return {"mon": "profile rbd", "osd": rights, "mgr": rights, "mds": "allow r path=/none"}


def node_rights(pool: str, addresses: Iterable[str]) -> Rights:
    """Of a node's user: images and disks of the pool; to block anybody, and to lift the blocks of its own
    addresses. ``addresses`` are IP addresses: the caller has checked them, they become part of the text."""
    own = "".join(
        f', allow command "osd blocklist" with blocklistop=rm addr="{whole(address)}"' for address in addresses
    )
    rights = f"profile rbd pool={pool}"
    return {"mon": f"profile rbd{own}", "osd": rights, "mgr": rights}


def user_maker() -> Rights:
    """Of the user of ``pki serve``: to make, change and delete nodes' users, and nobody else's.

    With its key one can give a user of that name every right: Ceph compares names, not the rights.
    """
    makes = ("auth get-or-create", "auth caps", "auth rm")
    each = "".join(f', allow command "{verb}" with entity prefix client.{NODE_USERS}' for verb in makes)
    return {"mon": f"allow r{each}"}


def whole(address: str) -> str:
    """An address as the blocklist has all of its clients."""
    ip = ipaddress.ip_address(address)
    return f"[{ip}]:0/0" if ip.version == 6 else f"{ip}:0/0"


def flat(rights: Rights) -> list[str]:
    """As ``auth caps`` takes them."""
    return [text for pair in rights.items() for text in pair]


def compared(rights: Rights) -> str:
    """As a capability compares them."""
    return "".join(f' caps_{kind}="{text}"' for kind, text in rights.items())


def may_fence_guests(own: str, pool: str) -> str:
    """What the mon capabilities of a node's user need besides: take any guests' rights, give its own back."""
    return (
        f', allow command "auth caps" with entity regex "client[.][A-Za-z0-9-]*{GUESTS}"{compared(NO_RIGHTS)}'
        f', allow command "auth caps" with entity="client.{own}"{compared(guest_rights(pool))}'
        f', allow command "auth get" with entity="client.{own}"'
    )
