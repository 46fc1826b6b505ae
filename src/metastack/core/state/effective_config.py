"""The cluster's settings as this process knows them, also while their record cannot be read.

Owns: which settings hold. Refuses: reading or mending the record.
Rule: settings that cannot be read relax nothing: the last that could be hold, or careful ones.
"""

from __future__ import annotations

from ..model import CAREFUL, ClusterConfig
from .seen import Seen


class EffectiveConfig:
    """The settings that hold; defaults when there is no record."""

    def __init__(self) -> None:
        self.config = ClusterConfig()
        self.why = ""
        """Why they cannot be read; empty: they can."""
        self.was_read = True
        """These are the settings, or were. False: they cannot be read, and this process never did."""
        self._read: ClusterConfig | None = None

    def note(self, found: Seen[ClusterConfig] | None) -> None:
        """That is the record by now."""
        self.why = ""
        if found is None:
            self._read = ClusterConfig()
        elif found.record is not None:
            self._read = found.record
        else:
            self.why = found.why
        self.was_read = self._read is not None
        self.config = self._read or CAREFUL
