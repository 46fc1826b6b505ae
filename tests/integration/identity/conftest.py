"""Fixtures: a real etcd with mutual TLS, for every etcd that this machine has."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))

from management_host import Host
from secured_etcd import Secured, etcds, running


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "binary" in metafunc.fixturenames:
        found = etcds()
        metafunc.parametrize("binary", found, ids=[f"etcd{n}" for n in range(len(found))])


@pytest.fixture
async def secured(binary: str) -> AsyncIterator[Secured]:
    async with running(binary) as made:
        yield made


@pytest.fixture
def host(secured: Secured) -> Host:
    return Host(secured)


@pytest.fixture
async def cluster(host: Host) -> Host:
    """After ``cluster init``."""
    answer = await host.init()
    assert answer.status == 0, answer
    return host
