"""A state folder of its own for every test, with a short path: sockets live below it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from metastack.dev.cluster import Cluster
from metastack.dev.layout import clusters


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="lab", dir="/tmp"))
    config = Path(tempfile.mkdtemp(prefix="cfg", dir="/tmp"))
    monkeypatch.setenv("METASTACK_DEV_STATE", str(base))
    monkeypatch.setenv("METASTACK_CONFIG", str(config / "config.toml"))
    yield base
    for name in clusters():
        Cluster(name).down()
    shutil.rmtree(base)
    shutil.rmtree(config)
