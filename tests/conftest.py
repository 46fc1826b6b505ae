"""Shared by every test: helper modules lie beside the tests that use them."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

# An example's wall time says nothing on a loaded machine; pytest's own timeout ends what hangs.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

for folder in ("unit/agent", "integration/e2e"):
    sys.path.insert(0, str(Path(__file__).parent / folder))
