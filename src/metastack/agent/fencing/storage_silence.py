"""This node's storage probe: whether the storage answers, since when not, and what that proves to others.

Owns: the probe every few seconds, and the three fields of the announcement that tell of it.
Refuses: acting on it: its VMs go on by themselves when the storage returns, and others decide about a fence.
Rule: a storage is silent only after three failed probes in a row. A proof is stricter: its probe was prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from msgspec import Struct

from ...core.model import NodeAlive
from ...core.protocol.silence import WITNESSES, silent_nodes
from ...core.state.cluster_state import Seen
from ...ports import Fenced, Refused, Unavailable
from ..context import AgentContext

log = structlog.get_logger()

PROBE_EVERY_S: Final = 5.0
PROBE_AGAIN_S: Final = 1.0
"""After a probe that failed."""
ANSWER_S: Final = 10.0
"""A probe that is not answered within this time has failed."""
PROMPT_S: Final = 2.0
"""A probe proves something when it was answered within this: a storage that is slow for all proves nothing."""
MISSES: Final = 3
"""After this many failed probes in a row the storage is silent."""
SAY_AGAIN_S: Final = 20.0
"""A proof is told once more after this, while the silence of another lasts."""


class SilenceReport(Struct, frozen=True, kw_only=True):
    """What the announcement says of it."""

    since: str
    at: int
    proved: int


class StorageSilence:
    """Asks this node's storage, again and again. ``blocked`` is called when it shuts this node out."""

    def __init__(self, node: AgentContext, blocked: Callable[[], None]) -> None:
        self._node, self._blocked = node, blocked
        self.since = ""
        """Since when it is silent; empty: it answers, as far as is known."""
        self.answers_from_s: float | None = None
        """Loop time since when every probe was answered promptly; None: the last one was not."""
        self.proved = 0
        """Highest revision that was seen before a prompt probe began."""
        self._misses = 0
        self._missed_from = ""
        self._ask_lock = asyncio.Lock()
        self._said_s = 0.0

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            await self.ask()
            await asyncio.sleep(PROBE_AGAIN_S if self._misses else PROBE_EVERY_S)

    async def ask(self) -> bool:
        """Ask once; true when it was answered promptly."""
        loop = asyncio.get_running_loop()
        async with self._ask_lock:
            revision, begun_s, begun = self._node.world.revision, loop.time(), self._node.clock.stamp()
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._node.storage.probe()
            except Fenced:
                self._answered(0)
                self._blocked()
            except Refused as error:
                # It answered, if not as it should: nothing for others to act on.
                self._answered(0)
                log.info("storage_probe_refused", node=self._node.name, error=str(error))
            except (Unavailable, TimeoutError) as error:
                self._missed(begun, str(error) or f"no answer within {ANSWER_S:g} s")
            else:
                prompt = loop.time() - begun_s <= PROMPT_S
                self._answered(revision if prompt else 0)
                if prompt and self.answers_from_s is None:
                    self.answers_from_s = begun_s
                return prompt
            return False

    def _answered(self, revision: int) -> None:
        if self.since:
            log.warning("storage_recovered", node=self._node.name, silent_since=self.since)
        self.since, self._misses = "", 0
        if revision:
            self.proved = max(self.proved, revision)
        else:
            self.answers_from_s = None

    def _missed(self, begun: str, why: str) -> None:
        self.answers_from_s = None
        self._missed_from = self._missed_from if self._misses else begun
        self._misses += 1
        if self._misses >= MISSES and not self.since:
            self.since = self._missed_from
            log.error("storage_silent", node=self._node.name, since=self.since, error=why)

    def next_report(self, found: Seen[NodeAlive] | None) -> SilenceReport:
        """What to announce, after what was announced last."""
        said = found.record if found is not None else None
        at = 0
        if self.since and found is not None and said is not None and said.storage_silent_since == self.since:
            at = said.storage_silent_at or found.mod
        return SilenceReport(since=self.since, at=at, proved=self._is_due(said.storage_proved if said else 0))

    def _is_due(self, said: int) -> int:
        """The proof that is worth an event for every agent, or the one that was told last."""
        node, now_s = self._node, asyncio.get_running_loop().time()
        silent = [at for name, at in silent_nodes(node.world).items() if name != node.name]
        if self.since or not silent or self.proved < min(silent):
            return said
        rank = node.rank_of("storage-witness")
        if rank is None or rank >= WITNESSES + len(silent):
            return said
        fresh = said < max(at for at in silent if at <= self.proved)
        if not fresh and now_s - self._said_s < SAY_AGAIN_S:
            return said
        self._said_s = now_s
        return self.proved
