"""Distrust reports: a node that does not believe the etcd that it reached writes so into that etcd.

Owns: the leased record ``refusals/<node>``. Refuses: writing anything else there, or depending on having told.
Rule: it proves nothing and moves nothing. ``status`` and ``doctor`` show it, and a person who restores etcd
learns from it what runs, and how high the numbers are that were given already.
"""

from __future__ import annotations

import asyncio

import structlog

from ...core.model import Refusal, Running
from ...core.state.codec import encode
from ...core.state.keys import Keys
from ...core.transaction import Put, Transaction
from ...ports import Hypervisor, Refused, Store, Unavailable
from ..clock import Clock
from .etcd_history import EtcdHistory
from .state_files import StateFiles

log = structlog.get_logger()

REFUSAL_TTL_S = 60
EVERY_S = 15.0


class DistrustReporter:
    """Says it again as long as it is asked to."""

    def __init__(
        self,
        name: str,
        keys: Keys,
        store: Store,
        hypervisor: Hypervisor,
        etcd_history: EtcdHistory,
        state_files: StateFiles,
        clock: Clock,
        addresses: tuple[str, ...],
    ) -> None:
        self._name, self._keys, self._store, self._hypervisor = name, keys, store, hypervisor
        self._etcd_history, self._state_files, self._clock, self._addresses = (
            etcd_history,
            state_files,
            clock,
            addresses,
        )
        self._told: tuple[str, float] = ("", 0.0)

    async def report(self) -> None:
        """Write it, unless that was done a moment ago; a failure is logged and tried again by the next call."""
        now_s, why = asyncio.get_running_loop().time(), self._etcd_history.why
        if self._told[0] == why and now_s - self._told[1] < EVERY_S:
            return
        try:
            record = Refusal(
                name=self._name,
                uuid=self._state_files.node_uuid(""),
                why=why,
                at=self._clock.stamp(),
                storage_addresses=self._addresses,
                generation=self._etcd_history.known.generation,
                revision=self._etcd_history.known.revision,
                cluster_id=f"{self._etcd_history.known.cluster_id:x}",
                running=tuple(
                    Running(vm=f"{d.project}/{d.name}", uuid=d.uuid, epoch=d.epoch)
                    for d in await self._hypervisor.domains()
                    if d.managed
                ),
            )
            lease = await self._store.grant(REFUSAL_TTL_S)
            put = Put(self._keys.refusal(self._name), encode(record), leased=True)
            await self._store.commit(Transaction(name="refuse", guards=(), effects=(put,), lease=lease.id))
        except (Unavailable, Refused) as error:
            log.info("refusal_publish_failed", node=self._name, error=str(error))
            return
        self._told = (why, now_s)
