"""One agent per host: the lock on its disk is another process's as long as that one lives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from metastack.agent.session.state_files import StateFiles
from metastack.ports import Broken

HOLD = """
import sys
from pathlib import Path
from metastack.agent.session.state_files import StateFiles
StateFiles(Path(sys.argv[1])).lock()
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_second_agent_of_a_host_is_refused(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(Broken, match="another agent runs"):
            StateFiles(tmp_path).lock()
        first.kill()
        first.wait(30)
    state_files = StateFiles(tmp_path)
    state_files.lock()
    state_files.unlock()


def test_a_clean_exit_mark_holds_for_one_start(tmp_path: Path) -> None:
    state_files = StateFiles(tmp_path)
    state_files.leave_clean_exit()
    assert state_files.take_clean_exit()
    assert not StateFiles(tmp_path).take_clean_exit(), (
        "the start after it is unclean until it has left in its turn"
    )
