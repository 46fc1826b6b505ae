"""Agents while the settings cannot be read: what was set goes on; who never read any fences nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent_rig import IMAGE, KEYS, lab_of, vm, vm_spec

from metastack.core.model import Claim, ClusterConfig, Fence, FenceReceipt, Image, ImageState, NodeAlive
from metastack.core.protocol.fences import intent_by_hand
from metastack.core.state.codec import decode, encode
from metastack.lab.sim.engine.loop import run

BROKEN = b'{"v":99}'


def _alive(lab, node: str) -> NodeAlive:
    raw = lab.entry(KEYS.node_alive(node))
    assert raw is not None
    return decode(NodeAlive, raw)


async def _image(lab) -> None:
    known = Image(name="debian", uuid=IMAGE, state=ImageState.READY, size_bytes=512)
    await lab.put(KEYS.image("debian"), encode(known))


def test_a_brake_that_was_set_stays_set(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await _image(lab)
            await lab.put(KEYS.cluster(), encode(ClusterConfig(brake_percent=0)))
            await lab.want("v")
            await lab.until("running", lambda: lab.where("v"))
            await lab.put(KEYS.cluster(), BROKEN)
            victim = lab.where("v")
            await lab.hosts[victim].power_cut()
            await asyncio.sleep(60)
            fence = lab.entry(KEYS.fence(victim))
            assert fence is None or not (decode(Fence, fence).intent or decode(Fence, fence).through)
            other = next(name for name in lab.hosts if name != victim)
            assert any("read last" in text for text in _alive(lab, other).warnings)
            await lab.put(KEYS.cluster(), encode(ClusterConfig()))
            await lab.until("taken over", lambda: lab.where("v") not in ("", victim))
            await lab.until("said no more", lambda: not _alive(lab, other).warnings)

    run(story())


def test_a_node_without_readable_settings_fences_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=4) as lab:
            await _image(lab)
            await lab.want("v")
            await lab.until("running", lambda: lab.where("v"))
            victim = lab.where("v")
            others = [name for name in lab.hosts if name != victim]
            await lab.put(KEYS.cluster(), BROKEN)
            for name in others:
                await lab.hosts[name].stop()
                lab.hosts[name].start()
            await lab.all_ready()
            await lab.hosts[victim].power_cut()
            # A person says so, too: perhaps fences go by single clients here, and nobody knows.
            await lab.until("lost", lambda: lab.entry(KEYS.node_alive(victim)) is None)
            await lab.client.commit(intent_by_hand(KEYS, victim, None, 0, "", "off"))
            await asyncio.sleep(60)
            fence = decode(Fence, lab.entry(KEYS.fence(victim)) or b"")
            assert not fence.through and fence.intent
            assert all("cannot be read" in _alive(lab, name).brake for name in others)
            assert all("fences no node" in " ".join(_alive(lab, name).warnings) for name in others)
            await lab.put(KEYS.cluster(), b"{}")
            await lab.until("taken over", lambda: lab.where("v") not in ("", victim))
            await lab.until("no brake", lambda: not any(_alive(lab, name).brake for name in others))

    run(story())


def test_an_agent_starts_without_readable_settings(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await _image(lab)
            await lab.want("v")
            await lab.until("running", lambda: lab.where("v"))
            where = lab.where("v")
            await lab.put(KEYS.cluster(), BROKEN)
            for host in lab.hosts.values():
                await host.crash()
            await asyncio.sleep(2)
            for host in lab.hosts.values():
                host.start()
            await lab.all_ready()
            await lab.want("w")
            await lab.until("running", lambda: lab.where("w"))
            assert lab.where("v") == where

    run(story())


def test_clients_of_a_client_fence_are_always_checked(tmp_path: Path) -> None:
    """The setting was turned back between the fence and the boot; and it cannot be read."""

    def shut(through: int, clients: tuple[str, ...]) -> bytes:
        receipt = FenceReceipt(at="", by="n2", method="x", addresses=(), clients=clients, osd_epoch=1,
                               verified="", reason="")  # fmt: skip
        return encode(Fence(through=through, receipt=receipt))

    async def story(settings: bytes, clients: tuple[str, ...], waits: bool) -> None:
        async with lab_of(tmp_path / f"{len(settings)}{waits}", nodes=1) as lab:
            await _image(lab)
            await lab.put(KEYS.cluster(), settings)
            if settings == BROKEN:
                await lab.hosts["n1"].stop()
                lab.hosts["n1"].start()
                await lab.all_ready()
            spec = vm_spec("v")
            lab.pool.blocked.update(clients)
            lab.pool.is_open = lambda path: path.endswith(spec.volume_uuid)
            lab.pool.new_disk(spec.volume_uuid, spec.disk_bytes, IMAGE)
            claim = Claim(node="gone", session=3, uuid=spec.uuid, volume_uuid=spec.volume_uuid, claim_id="c")
            await lab.put(KEYS.claim(vm("v")), encode(claim))
            await lab.put(KEYS.fence("gone"), shut(9, clients))
            await lab.put(KEYS.vm_spec(vm("v")), encode(spec))
            await asyncio.sleep(20)
            assert lab.where("v") == ("" if waits else "n1")
            del lab.pool.is_open
            await lab.until("running", lambda: lab.where("v") == "n1")

    whole = encode(ClusterConfig())
    run(story(whole, (), waits=False))
    run(story(whole, ("10.0.0.9:0/1",), waits=True))
    run(story(BROKEN, (), waits=True))
    run(story(encode(ClusterConfig(fencing="client")), (), waits=True))  # type: ignore[arg-type]
