"""Shared by every test: helper modules lie beside the tests that use them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

# An example's wall time says nothing on a loaded machine; pytest's own timeout ends what hangs.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on real parts share a folder's servers: with several workers a folder stays with one of them."""
    here = Path(__file__).parent
    for item in items:
        kind, *rest = item.path.relative_to(here).parts
        if kind in ("integration", "contract") and len(rest) > 1:
            item.add_marker(pytest.mark.xdist_group(f"{kind}/{rest[0]}"))


for folder in ("unit/agent", "integration/e2e"):
    sys.path.insert(0, str(Path(__file__).parent / folder))
