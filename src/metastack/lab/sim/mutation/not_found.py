"""Mutations: what the storage does not find, and whether it is gone.

Owns: the entries of records that a "not found" would drop.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, agent

NOT_FOUND: Final = (
    Mutation(
        "not-found-is-gone",
        "a deleted VM's disk that is not found keeps its record until the storage's list agrees",
        agent("upkeep.removal", "Remover.to_trash", "await self._prove_gone(volume)"),
        ("test:unit/agent/test_disk_not_found.py",),
        evidence="test",
        because="the simulated pool finds whatever it lists",
    ),
    Mutation(
        "half-move-without-a-record",
        "what the storage lists and cannot read is moved only when a record of the trash names it",
        agent(
            "upkeep.removal", "Remover._prove_gone", "if going is None or going.record is None:", "if False:"
        ),
        ("test:unit/agent/test_disk_not_found.py",),
        evidence="test",
        because="the simulated pool finds whatever it lists",
    ),
)
