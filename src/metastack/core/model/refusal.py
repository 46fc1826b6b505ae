"""The refusal: what a node writes that does not believe the etcd that it reached, without a session.

Rule: leased, and proof of nothing. A node that acts on it only waits longer because of it.
"""

from __future__ import annotations

from msgspec import Struct

from .numbers import Record


class Running(Struct, frozen=True, kw_only=True):
    """A domain as its node sees it."""

    vm: str
    """``project/name``."""
    uuid: str
    epoch: int


class Refusal(Record, frozen=True, kw_only=True):
    """``refusals/<node>``: leased. A node that does not believe this etcd, and what it knows instead."""

    name: str
    uuid: str
    why: str
    at: str = ""
    storage_addresses: tuple[str, ...] = ()
    generation: int = 0
    """The highest that it knows; a restore has to go above it."""
    revision: int = 0
    """The highest that it has seen in that generation."""
    cluster_id: str = ""
    running: tuple[Running, ...] = ()
    """Its guests."""
