"""The hand-over of events, and the real adapter on libvirt's own test driver."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import libvirt
import pytest

from metastack.hypervisor.libvirt.errors import translate
from metastack.hypervisor.libvirt.events import RECONNECTED, EventStream, lifecycle
from metastack.hypervisor.libvirt.hypervisor import LibvirtHypervisor
from metastack.ports import (
    DiskFormat,
    DiskSource,
    DomainEvent,
    DomainSpec,
    DomainState,
    EndReason,
    Fenced,
    InUse,
    Refused,
    UnknownOutcome,
)

NODE = """<node><cpu><mhz>1000</mhz><model>x86_64</model><active>4</active><nodes>1</nodes><sockets>1</sockets>
<cores>4</cores><threads>1</threads></cpu><memory>4194304</memory></node>"""

SPEC = DomainSpec(
    uuid="11111111-2222-4333-8444-555555555555",
    project="default",
    name="hello",
    cpus=1,
    memory_mib=64,
    disk=DiskSource(kind="file", format=DiskFormat.RAW, path="/nowhere/a.raw"),
    session=1,
    epoch=2,
    run=3,
)


async def test_events_from_threads_arrive_in_order_and_once() -> None:
    stream = EventStream(asyncio.get_running_loop())
    events = [DomainEvent(uuid=str(number), what="started") for number in range(500)]

    def post() -> None:
        for event in events:
            stream.post(event)
            stream.post(event)

    thread = threading.Thread(target=post)
    thread.start()
    async with asyncio.timeout(10):
        seen = [await anext(stream)]
        while seen[-1] != events[-1]:
            seen.append(await anext(stream))
    thread.join()
    unique = list(dict.fromkeys(seen))
    assert unique == events


async def test_too_many_events_become_one() -> None:
    stream = EventStream(asyncio.get_running_loop(), bound=10)
    for number in range(11):
        stream.post(DomainEvent(uuid=str(number), what="started"))
    assert await anext(stream) == RECONNECTED
    assert len(stream._pending) == 0


async def test_a_repeated_event_keeps_its_last_place() -> None:
    stream = EventStream(asyncio.get_running_loop())
    started, stopped = (DomainEvent(uuid="a", what=what) for what in ("started", "stopped"))
    for event in (stopped, started, stopped):
        stream.post(event)
    assert [await anext(stream), await anext(stream)] == [started, stopped]


@pytest.mark.parametrize(
    ("event", "detail", "what"),
    [
        (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED, "crashed"),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN, "stopped"),
        (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR, "io_error"),
        (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED, "suspended"),
        (99, 0, "changed"),
    ],
)
def test_words(event: int, detail: int, what: str) -> None:
    assert lifecycle(event, detail) == what


@pytest.mark.parametrize(
    ("code", "domain", "text", "kind"),
    [
        (libvirt.VIR_ERR_INTERNAL_ERROR, 10, 'x: Failed to get "write" lock\nIs another', InUse),
        (
            libvirt.VIR_ERR_INTERNAL_ERROR,
            10,
            "error connecting: Cannot send after transport endpoint shutdown",
            Fenced,
        ),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC, "client socket is closed", UnknownOutcome),
        (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, 10, "no such machine", Refused),
    ],
)
def test_errors(code: int, domain: int, text: str, kind: type[Exception]) -> None:
    error = libvirt.libvirtError("x")
    error.err = (code, domain, text, 2, None, None, None, -1, -1)
    assert type(translate(error, changes=True, what="boot")) is kind


async def test_the_adapter_on_the_test_driver(tmp_path: Path) -> None:
    node = tmp_path / "node.xml"
    node.write_text(NODE)
    hypervisor = LibvirtHypervisor(f"test://{node}", vnc_dir="")
    await hypervisor.open()
    events = hypervisor.events()
    await hypervisor.boot(SPEC)
    domain = await hypervisor.domain(SPEC.uuid)
    assert domain is not None
    assert (domain.state, domain.project, domain.epoch) == (DomainState.RUNNING, "default", 2)
    async with asyncio.timeout(10):
        seen = {(await anext(events)).what for _ in range(2)}
    assert seen == {"defined", "started"}
    await hypervisor.shutdown(SPEC.uuid)
    domain = await hypervisor.domain(SPEC.uuid)
    assert domain is not None
    assert (domain.state, domain.end) == (DomainState.DEFINED, EndReason.SHUTDOWN)
    await hypervisor.kill(SPEC.uuid)
    assert await hypervisor.domains() == []
    await hypervisor.quiesce()
    await hypervisor.close()
