"""One cluster for all end-to-end tests of a session: a real etcd, a real Ceph, three simulated hosts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_lab import Lab

from metastack.lab.dev import guest
from metastack.lab.dev.cluster import Cluster

TTL_S = 3


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """State of this session's clusters, away from a person's own."""
    folder = Path(tempfile.mkdtemp(prefix="ms", dir="/tmp"))
    before = {key: os.environ.get(key) for key in ("METASTACK_DEV_STATE", "METASTACK_CONFIG")}
    os.environ["METASTACK_DEV_STATE"] = str(folder)
    os.environ["METASTACK_CONFIG"] = str(folder / "config.toml")
    yield folder
    for key, value in before.items():
        if value is None:
            os.environ.pop(key)
        else:
            os.environ[key] = value
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def guest_image() -> Path:
    cache = Path(tempfile.gettempdir()) / "metastack-guest"
    cache.mkdir(exist_ok=True)
    return guest.image(cache)


def _up(name: str, storage: str, image: Path) -> Cluster:
    cluster = Cluster(name)
    cluster.up(nodes=3, storage=storage, ttl_s=TTL_S, secure=True)
    # Not the context of a cluster that a test before this one had, and took away.
    os.environ["METASTACK_CONTEXT"] = name
    try:
        Lab(cluster).do("image", "import", "tiny", str(image))
    except BaseException:
        cluster.down()
        raise
    return cluster


@pytest.fixture(scope="session")
def ceph_cluster(home: Path, guest_image: Path) -> Iterator[Cluster]:
    cluster = _up("c", "ceph", guest_image)
    yield cluster
    cluster.down()


@pytest.fixture
def lab(ceph_cluster: Cluster) -> Iterator[Lab]:
    """The cluster, whole; every VM of the test is gone afterwards."""
    os.environ["METASTACK_CONTEXT"] = ceph_cluster.layout.name
    lab = Lab(ceph_cluster)
    lab.until_all_ready()
    yield lab
    for name in ceph_cluster.state.nodes:
        if ceph_cluster.init(name) is None:
            ceph_cluster.start_node(name)
        ceph_cluster.heal(name)
    lab.until_all_ready()
    for vm in lab.json("vm", "list"):
        lab.do("vm", "delete", vm["name"], "--yes")


@pytest.fixture
def file_lab(home: Path, guest_image: Path) -> Iterator[Lab]:
    """A cluster on shared files, of its own."""
    cluster = _up("f", "file", guest_image)
    os.environ["METASTACK_CONTEXT"] = "f"
    yield Lab(cluster)
    cluster.down()
