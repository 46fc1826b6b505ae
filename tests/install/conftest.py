"""Hosts for the tests of an installation: a lab of the module's own, taken down whatever happens."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hosts import Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab without hosts. Its name carries the pid, so that runs beside each other do not meet."""
    made = Lab(f"t{os.getpid() % 10**7}")
    try:
        yield made
    finally:
        made.down()
