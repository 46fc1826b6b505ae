"""A rotated key that a call of the storage notices first is told to everybody all the same."""

from __future__ import annotations

from pathlib import Path

from agent_rig import KEYS, lab_of

from metastack.core.model import NodeFacts
from metastack.core.state.codec import decode
from metastack.lab.sim.engine.loop import run
from metastack.ports import CephSecret
from metastack.storage.twin import MemoryStorage


def test_fencers_and_libvirt_hear_of_new_storage_keys(tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            agent = lab.hosts["n1"].agent
            assert agent is not None
            storage = agent.node.storage
            assert isinstance(storage, MemoryStorage)
            # As Ceph's adapter does it when its own probe is refused: another handle, with the keys of now.
            new = CephSecret(uuid="s", name="client.n", key=b"new")
            storage.keyring = storage.secret = new
            storage._client = lab.pool.new_client("10.0.0.1")

            def told() -> bool:
                raw = lab.entry(KEYS.node_facts("n1"))
                declared = decode(NodeFacts, raw).storage_clients if raw is not None else ()
                return lab.hosts["n1"].hypervisor.secret == new and storage._client in declared

            await lab.until("both were told", told, within_s=200)

    run(play())
