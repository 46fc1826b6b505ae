"""What tells a host's shutdown from a restart of the agent."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from metastack.agent.upkeep import host_state
from metastack.agent.upkeep.host_state import host_stops
from metastack.agent.upkeep.systemd import Notifier


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo stopping; exit 1", True),
        ("echo running", False),
        ("echo degraded; exit 1", False),
        ("echo offline; exit 1", False),
        ("echo stopping >&2", False),
        ("exit 1", False),
    ],
)
async def test_only_the_word_stopping_is_a_shutdown(script: str, expected: bool) -> None:
    assert await host_stops(("sh", "-c", script)) is expected


async def test_a_command_that_is_missing_is_no_shutdown(tmp_path: Path) -> None:
    assert not await host_stops((str(tmp_path / "missing"),))


async def test_no_answer_in_time_is_no_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_state, "ANSWER_S", 0.05)
    assert not await host_stops(("sleep", "60"))


def test_a_longer_stop_is_asked_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        Notifier().extend(105, "the host shuts down")
        assert b"\nEXTEND_TIMEOUT_USEC=105000000\n" in sock.recv(4096)
