"""Shared by every test: helper modules lie beside the tests that use them."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("unit/agent", "integration/e2e"):
    sys.path.insert(0, str(Path(__file__).parent / folder))
