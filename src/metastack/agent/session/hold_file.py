"""The hold file: what earlier agents of this node leave in ``state_dir`` about their name hold.

Owns: since when the place is held, how many agents have died meanwhile, and until when the node stays away.
Refuses: ending anything. A file that is damaged, missing, of another boot or of the future counts as none.
A disk that takes no file costs the count, never the agent.
Rule: times are of the loop's clock (CLOCK_MONOTONIC): every process of one boot has the same, nobody turns it,
and it stands while the machine sleeps. The boot's id says which boot that was.
"""

from __future__ import annotations

from typing import Final

import msgspec
import structlog
from msgspec import Struct

from ...ports import LocalTrouble
from .state_files import StateFiles

log = structlog.get_logger()

DEATHS: Final = 2
"""When this many agents have died before they were of use it is no accident any more."""


class HoldRecord(Struct, frozen=True, kw_only=True):
    """What lies in the file."""

    boot_id: str = ""
    from_s: float = 0.0
    """Since the first registration that no readiness of some length followed; 0: none."""
    deaths: int = 0
    """Agents that have died since, as their successors counted them."""
    given_up: int = 0
    """How often in a row the place was given up."""
    away_until_s: float = 0.0


class HoldFile:
    """That file; without a boot id there is none."""

    def __init__(self, state_files: StateFiles, boot_id: str) -> None:
        self._state_files, self._boot_id = state_files, boot_id
        self.held = HoldRecord(boot_id=boot_id)
        self._kept: HoldRecord | None = None

    def begin(self, now_s: float, away_most_s: float) -> None:
        """Read it, once in this process: if the one before registered, and was of no use, it died of that."""
        found = self._read()
        if found is None or found.boot_id != self._boot_id:
            return
        credible = 0 <= found.from_s <= now_s and found.deaths >= 0 and found.given_up >= 0
        if not credible or not found.away_until_s <= now_s + away_most_s:
            return
        self.held = self._kept = found
        if found.from_s:
            self._keep(msgspec.structs.replace(found, deaths=found.deaths + 1))

    def registered(self, now_s: float) -> None:
        """This node holds its place from now on, if it did not already."""
        if not self.held.from_s:
            self._keep(msgspec.structs.replace(self.held, from_s=now_s, away_until_s=0.0))

    def deaths_exceeded(self, now_s: float, useless_s: float) -> bool:
        """Agents have died here again and again, for so long, and none was of use."""
        held = self.held
        return bool(held.from_s) and held.deaths >= DEATHS and now_s - held.from_s >= useless_s

    def record_give_up(self, given_up: int, until_s: float) -> None:
        """Also the next agent, if this one dies, stays away until then."""
        self._keep(HoldRecord(boot_id=self._boot_id, given_up=given_up, away_until_s=until_s))

    def forget(self) -> None:
        """The node is of use, or its agent was stopped by somebody."""
        self.held = HoldRecord(boot_id=self._boot_id)
        try:
            self._state_files.forget_place()
            self._kept = None
        except LocalTrouble as error:
            log.debug("lease_mark_remove_failed", error=str(error))

    def _keep(self, held: HoldRecord) -> None:
        self.held = held
        if not self._boot_id or held == self._kept:
            return
        try:
            self._state_files.keep_place(msgspec.json.encode(held).decode())
            self._kept = held
        except LocalTrouble as error:
            log.debug("lease_mark_write_failed", error=str(error))

    def _read(self) -> HoldRecord | None:
        if not self._boot_id:
            return None
        try:
            return msgspec.json.decode(self._state_files.place(), type=HoldRecord)
        except (LocalTrouble, ValueError):  # not readable, not UTF-8, not JSON, or not of these types
            return None
