"""Small parts of the in-memory hypervisor's calls: what a definition makes, and errors that no task awaits.

Owns: nothing that lasts. Refuses: state; that is the host's.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from metastack.ports import Domain, DomainSpec, DomainState

T = TypeVar("T")


async def opens(spec: DomainSpec) -> None:
    """The storage has nothing against it."""


def seen(task: asyncio.Task[T]) -> None:
    """The waiting task may be gone: its error is no surprise."""
    if not task.cancelled():
        task.exception()


def defined(spec: DomainSpec) -> Domain:
    return Domain(
        uuid=spec.uuid,
        project=spec.project,
        name=spec.name,
        state=DomainState.DEFINED,
        session=spec.session,
        epoch=spec.epoch,
        run=spec.run,
        volume_uuid=spec.volume_uuid,
        node=spec.claim_node,
    )
