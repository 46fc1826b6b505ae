"""Connections to libvirtd for orders to domains: each order has one for itself.

Owns: opening them, and keeping a few for the next order. Refuses: events and looks, which have the main one.
Rule: an order to a QEMU that is stopped has no answer as long as that lasts. libvirtd takes five requests of
one connection, then reads no more of it; and a client's thread that waits for an answer reads those of others.
Measured on one connection: one such order held the next call up for 5 s, four for longer, and eight for good.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

import libvirt

from metastack.ports import Unavailable

KEPT: Final = 4
KEEPALIVE_S: Final = 5
KEEPALIVE_COUNT: Final = 3


class OrderConnections:
    """Used from any thread; blocks."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._idle: list[libvirt.virConnect] = []
        self._life = 0

    def take(self) -> tuple[libvirt.virConnect, int]:
        """A connection that nobody else uses, and its life. Raises Unavailable: then nothing was sent."""
        with self._lock:
            life = self._life
            found = self._idle.pop() if self._idle else None
        try:
            if found is not None and found.isAlive() == 1:
                return found, life
            virt = libvirt.open(self._uri)
            virt.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
        except libvirt.libvirtError as error:
            raise Unavailable(f"connect {self._uri}: {error.get_error_message()}; nothing was sent") from error
        return virt, life

    def give(self, virt: libvirt.virConnect, life: int) -> None:
        """It is free again."""
        with self._lock:
            if life == self._life and len(self._idle) < KEPT:
                self._idle.append(virt)
                return
        with suppress(libvirt.libvirtError):
            virt.close()

    def forget(self) -> None:
        """The daemon of before is gone, or gives no answers: no idle connection to it is used again."""
        with self._lock:
            self._life += 1
            self._idle.clear()
