"""The program as a process, against a real etcd; the rig of the commands' tests plays the agents."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "contract" / "commands"))

from cli_program import Program
from commands_rig import Rig

from metastack.commands.request import Cluster
from metastack.core.state.keys import Keys
from metastack.lab.dev.etcd import EtcdCluster
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore

_roots = itertools.count()


@pytest.fixture(scope="session")
def cli_etcd() -> Iterator[EtcdCluster]:
    folder = Path(tempfile.mkdtemp(prefix="ms-cli-", dir="/tmp"))
    cluster = EtcdCluster.local(folder)
    asyncio.run(cluster.start())
    yield cluster
    asyncio.run(cluster.kill())
    shutil.rmtree(folder)


@pytest.fixture
async def rig(cli_etcd: EtcdCluster) -> AsyncIterator[Rig]:
    store = EtcdStore(StoreSettings(endpoints=cli_etcd.endpoints))
    yield Rig(Cluster(store, Keys(f"/c{next(_roots)}")))
    await store.close()


@pytest.fixture
def program(cli_etcd: EtcdCluster, rig: Rig, tmp_path: Path) -> Program:
    """The program with a context ``lab`` for this test's cluster; its storage is a folder."""
    (tmp_path / "pool").mkdir()
    config = tmp_path / "config.toml"
    endpoints = ", ".join(f'"{url}"' for url in cli_etcd.endpoints)
    config.write_text(
        f'current = "lab"\n[contexts.lab.store]\nendpoints = [{endpoints}]\nroot = "{rig.keys.root}"\n'
        f'[contexts.lab.storage]\nkind = "file"\ndirectory = "{tmp_path / "pool"}"\n'
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("METASTACK_", "SUDO_"))}
    return Program({**kept, "METASTACK_CONFIG": str(config), "TMPDIR": str(tmp_path)})
