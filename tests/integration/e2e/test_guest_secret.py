"""Guests open their disks in a real Ceph with a key that is in a secret alone, and with the next one."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from e2e_lab import METASTACK, Lab
from test_rotated_key import rotate

from metastack.lab.dev.ceph import MiniCeph
from metastack.lab.dev.cluster import POOL, Cluster
from metastack.lab.dev.plan import CONSOLE_PORT, agent_config
from metastack.storage.ceph.handle import read_key

pytestmark = [pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]
GUESTS = "node-n1-guests"


class OneNode(Lab):
    """Its guests have a cephx user of their own, whose key is in no file of the node."""

    @property
    def ceph(self) -> MiniCeph:
        assert self.cluster.ceph is not None
        return self.cluster.ceph

    @property
    def ring(self) -> Path:
        return self.cluster.layout.folder / "secrets.key"

    def begin(self) -> None:
        host = self.cluster.host("n1")
        asyncio.run(self.ceph.ceph("auth", "rm", "client.node-n1"))
        asyncio.run(self.ceph.create_node_user("node-n1", host.address, pool=POOL, guests=True))
        self.cluster.start_node("n1", agent=False)
        storage = self.cluster.storage_settings("n1")
        assert storage.guest_user == GUESTS
        config = agent_config(host, CONSOLE_PORT, self.cluster.node_store_settings("n1"), storage)
        del config["storage"]["guest_keyring"]
        config["storage"]["guest_secret"] = "guests"
        host.agent_config.write_text(tomli_w.dumps({**config, "secrets_key_file": str(self.ring)}))
        self.do("secret", "key", "create", "--key-file", str(self.ring))
        self.put(self.ceph.keyring(GUESTS))
        host.start_agent()

    def put(self, keyring: Path) -> str:
        """The key of a keyring file as a secret; the file goes."""
        key = read_key(GUESTS, str(keyring))
        keyring.unlink()
        words = ("secret", "put", "guests", "--key-file", str(self.ring))
        done = subprocess.run(
            [*METASTACK, *words], input=key, text=True, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return key


@pytest.fixture
def one(home: Path, guest_image: Path) -> Iterator[OneNode]:
    cluster = Cluster("k")
    cluster.up(nodes=1, storage="ceph", ttl_s=6, agents=False)
    try:
        os.environ["METASTACK_CONTEXT"] = "k"
        lab = OneNode(cluster)
        lab.begin()
        lab.until_all_ready()
        lab.do("image", "import", "tiny", str(guest_image))
        yield lab
    finally:
        cluster.down()


def test_guests_use_the_key_in_the_secret(one: OneNode) -> None:
    lab = one
    session = lab.node("n1")["session"]
    lab.create("first")
    assert lab.boots("first") == 1
    text = asyncio.run(rotate(lab, GUESTS))
    file = lab.ceph.keyring(GUESTS)
    file.write_text(text)
    key = lab.put(file)
    lab.create("second", "--timeout", "100")
    assert lab.boots("second") == 1
    assert lab.node("n1")["session"] == session, "its agent was not restarted, nor its session lost"
    node = lab.cluster.host("n1").folder
    texts = [path for kind in ("log", "toml", "xml") for path in node.rglob(f"*.{kind}") if path.is_file()]
    assert {"agent.log", "agent.toml"} <= {path.name for path in texts}
    assert [str(path) for path in texts if key.encode() in path.read_bytes()] == []
