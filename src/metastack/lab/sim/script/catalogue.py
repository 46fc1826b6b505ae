"""Every verb there is, once the modules that define them are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from . import by_hand, faults, faults_outside, machines, maintenance, request_verbs, restoring, verbs

DEFINED_IN: Final = (by_hand, faults, faults_outside, machines, maintenance, request_verbs, restoring)
FAULTS: Final[Mapping[str, verbs.Fault]] = verbs.FAULTS
