"""Shared by every test: helper modules lie beside the tests that use them; what failed is written down."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
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


FAILURES = os.environ.get("METASTACK_FAILURES", "")
"""File for ``deploy/again``: every test that failed, what it said, and whether it may be run once more."""
_failed: dict[str, dict[str, Any]] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if FAILURES and report.failed:
        proves = item.get_closest_marker("proof") is not None
        known = _failed.setdefault(item.nodeid, {"test": item.nodeid, "proof": proves, "said": ""})
        known["said"] += f"--- {report.when}\n{report.longreprtext}\n{report.caplog}{report.capstdout}\n"
    return report


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if FAILURES and report.failed:
        # No test of it ran: that is no flake.
        _failed[report.nodeid] = {"test": report.nodeid, "proof": True, "said": report.longreprtext}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if FAILURES:
        Path(FAILURES).write_text(json.dumps({"exit": int(exitstatus), "failed": list(_failed.values())}))
