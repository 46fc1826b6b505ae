"""Mutations: a host that fails, and VMs that it gives back.

Owns: the entries of :mod:`metastack.agent.giveback`, and of marks that the disk does not take.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, agent

AVAIL: Final = (
    Mutation(
        "ready-before-it-is-on-the-disk",
        "a session is used only when its number is on this host's disk",
        agent("session", "Session._write_down", "self._past.keep()"),
        ("state-folder-full",),
        evidence="expected",
        because="what it guards against needs an etcd that is restored just then, and nobody who says so",
    ),
)
