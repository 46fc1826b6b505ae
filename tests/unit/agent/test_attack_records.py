"""Records that something else than our CLI wrote: one bad key costs one object, never an agent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from agent_rig import IMAGE, KEYS, lab_of, vm, vm_spec

from metastack.core.model import Image, ImageState, Phase, VmStatus
from metastack.core.state.codec import decode, encode
from metastack.lab.sim.engine.loop import run


def _spec(name: str, **more: object) -> bytes:
    return json.dumps({**json.loads(encode(vm_spec(name))), **more}).encode()


DEEP = b'{"v":1,"later":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

BAD: dict[str, tuple[str, bytes]] = {
    "an empty volume uuid": (KEYS.vm_spec(vm("bad")), _spec("bad", volume_uuid="")),
    "a volume uuid that is a path": (KEYS.vm_spec(vm("bad")), _spec("bad", volume_uuid="../../etc/passwd")),
    "an image uuid that is a path": (KEYS.vm_spec(vm("bad")), _spec("bad", image_uuid="../x")),
    "a vm uuid that is none": (KEYS.vm_spec(vm("bad")), _spec("bad", uuid="<x/>")),
    "a negative memory": (KEYS.vm_spec(vm("bad")), _spec("bad", memory_mib=-4096)),
    "a negative disk": (KEYS.vm_spec(vm("bad")), _spec("bad", disk_bytes=-1)),
    "cpus beyond all bounds": (KEYS.vm_spec(vm("bad")), _spec("bad", cpus=1 << 1100)),
    "a project with a slash": (KEYS.vm_spec(vm("bad")), _spec("bad", project="a/b")),
    "json without a bottom": (KEYS.vm_spec(vm("bad")), DEEP),
    "text that is no text": (KEYS.vm_spec(vm("bad")), _spec("bad", by="?").replace(b"?", b"\xff\xfe")),
    "a newer version that is no text": (KEYS.vm_spec(vm("bad")), b'{"v":99,"by":"\xed\xa0\x80"}'),
    "an alive key without a bottom": (KEYS.node_alive("zz"), DEEP),
    "an endless overcommit": (KEYS.node_spec("n1"), b'{"overcommit_memory":1e308}'),
    "a claim of a node with a slash": (
        KEYS.claim(vm("bad")),
        json.dumps({"node": "a/b", "session": 1, "uuid": "x", "volume_uuid": "", "claim_id": "1"}).encode(),
    ),
    "a claim of no session there is": (
        KEYS.claim(vm("bad")),
        json.dumps({"node": "n1", "session": -(1 << 90), "uuid": "../x", "volume_uuid": "",
                    "claim_id": "1"}).encode(),
    ),
    "a claim of a generation beyond all bounds": (
        KEYS.claim(vm("bad")),
        json.dumps({"node": "n1", "session": 1, "uuid": "x", "volume_uuid": "", "claim_id": "1",
                    "generation": -1}).encode(),
    ),
    "a volume that is a path": (
        KEYS.volume("default", "x"),
        json.dumps({"uuid": "../../x", "project": "default", "vm": "bad", "vm_uuid": "", "size_bytes": 1,
                    "image_uuid": ""}).encode(),
    ),
    "a volume of a project with a slash": (
        KEYS.volume("default", "x"),
        json.dumps({"uuid": "x", "project": "a/b", "vm": "bad", "vm_uuid": "", "size_bytes": 1,
                    "image_uuid": ""}).encode(),
    ),
    "a volume of a vm with a slash": (
        KEYS.volume("default", "x"),
        json.dumps({"uuid": "x", "project": "default", "vm": "a/b", "vm_uuid": "", "size_bytes": 1,
                    "image_uuid": ""}).encode(),
    ),
    "a fence by nobody": (KEYS.fence("n1"), b'{"intent":true,"intent_by":""}'),
    "a fence by a path": (KEYS.fence("n1"), b'{"intent":true,"intent_by":"a/b"}'),
    "an image that is a path": (
        KEYS.image("bad"),
        json.dumps({"name": "bad", "uuid": "../../x", "state": "deleting"}).encode(),
    ),
    "a generation that is none": (KEYS.generation(), b'{"generation":-1}'),
    "a generation beyond all bounds": (KEYS.generation(), b'{"generation":1e30}'),
    "an alive key of nobody": (
        KEYS.node_alive("zz"), b'{"name":"a/b","capacity":{"cpus":1e308,"memory_mib":-1}}'
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_record_costs_no_agent(tmp_path: Path, what: str) -> None:
    """Before and after a restart of every agent, another VM is created and runs."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            known = Image(name="debian", uuid=IMAGE, state=ImageState.READY, size_bytes=512)
            await lab.put(KEYS.image("debian"), encode(known))
            key, value = BAD[what]
            await lab.put(key, value)
            await asyncio.sleep(95)  # sweeps and full looks
            await lab.want("good")
            await lab.until("running", lambda: _phase(lab, "good") is Phase.RUNNING)
            for host in lab.hosts.values():
                await host.crash()
                host.start()
            if BAD[what][0] == KEYS.generation():
                # New sessions wait: in a wrong generation they would lie below fences and claims of old ones.
                await asyncio.sleep(30)
                assert not any(h.agent.node.session.number for h in lab.hosts.values() if h.agent)
                await lab.put(KEYS.generation(), b'{"generation":0}')
            if "fence" not in what:  # its own node waits for somebody to look at it
                await lab.all_ready()
            await lab.want("more")
            await lab.until("running", lambda: _phase(lab, "more") is Phase.RUNNING)
            assert all(host._task is not None and not host._task.done() for host in lab.hosts.values())

    run(story())


def _phase(lab, name: str) -> Phase | None:
    raw = lab.entry(KEYS.vm_status(vm(name)))
    return decode(VmStatus, raw).phase if raw else None
