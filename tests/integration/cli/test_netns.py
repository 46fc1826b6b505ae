"""Stepping into a network namespace and back."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from metastack.commands.problem import Code, Problem
from metastack.lab.netns import inside

pytestmark = pytest.mark.lab
NAME = f"ms-cli-{os.getpid()}"


@pytest.fixture
def netns() -> Iterator[str]:
    subprocess.run(["ip", "netns", "add", NAME], check=True, timeout=30)
    yield NAME
    subprocess.run(["ip", "netns", "delete", NAME], check=True, timeout=30)


def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def test_in_and_out(netns: str) -> None:
    outside, here = interfaces(), os.readlink("/proc/thread-self/ns/net")
    with inside(netns):
        assert interfaces() == ["lo"]
        with inside(f"/run/netns/{netns}"):
            assert os.readlink("/proc/thread-self/ns/net") != here
    assert interfaces() == outside
    with pytest.raises(KeyError), inside(netns):
        raise KeyError
    assert os.readlink("/proc/thread-self/ns/net") == here, "also after a failure"
    with inside(""):
        assert interfaces() == outside


def test_one_that_is_not_there() -> None:
    with pytest.raises(Problem) as caught, inside("nonexistent"):
        pass
    assert caught.value.code is Code.FAILED
    assert "metastack dev status" in caught.value.hint
