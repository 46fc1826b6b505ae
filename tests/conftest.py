"""Shared by every test: helper modules lie beside the tests that use them."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from hypothesis import settings

# An example's wall time says nothing on a loaded machine; pytest's own timeout ends what hangs.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

for folder in ("unit/agent", "integration/e2e"):
    sys.path.insert(0, str(Path(__file__).parent / folder))


def _interrupted(number: int, frame: object) -> None:
    """Fixtures are torn down as after Ctrl-C; the TERM of deploy/check does not break that off."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise KeyboardInterrupt


# Whoever runs the tests in the background of a script has Ctrl-C ignored, and so would each program have that
# they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
