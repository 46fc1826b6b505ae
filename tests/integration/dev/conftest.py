"""A state folder of its own for every test, with a short path: sockets live below it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from metastack.lab.dev.cluster import Cluster
from metastack.lab.dev.layout import cache, clusters


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="lab", dir="/tmp"))
    config = Path(tempfile.mkdtemp(prefix="cfg", dir="/tmp"))
    # The guest image is built once for all tests, where the quickstart keeps it too.
    monkeypatch.setenv("METASTACK_DEV_CACHE", str(cache()))
    monkeypatch.setenv("METASTACK_DEV_STATE", str(base))
    monkeypatch.setenv("METASTACK_CONFIG", str(config / "config.toml"))
    yield base
    for name in clusters():
        Cluster(name).down()
    shutil.rmtree(base)
    shutil.rmtree(config)


@pytest.fixture
def person() -> Iterator[str]:
    """An ordinary user, made for the test and removed after it."""
    name = f"mstest{os.getpid()}"
    subprocess.run(["useradd", "--create-home", name], check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run(["userdel", "--remove", name], check=True, capture_output=True)
