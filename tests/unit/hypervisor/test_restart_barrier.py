"""The command that restarts libvirtd: whatever it leaves behind, its caller gets an answer in time."""

from __future__ import annotations

import pytest
import uvloop

from metastack.hypervisor.libvirt.restart_barrier import run
from metastack.ports import Unavailable


def test_a_daemon_that_is_left_behind_delays_nobody() -> None:
    # As `libvirtd -d` does: the command has ended, and its child holds what it was given. Agents run on uvloop.
    uvloop.run(run(("sh", "-c", "sleep 5 &"), 2.0))


def test_a_command_that_hangs_is_ended() -> None:
    with pytest.raises(Unavailable, match="did not end within"):
        uvloop.run(run(("sleep", "30"), 0.2))


def test_a_command_that_fails_is_quoted() -> None:
    with pytest.raises(Unavailable, match="no such unit"):
        uvloop.run(run(("sh", "-c", "echo no such unit >&2; exit 5"), 5.0))
