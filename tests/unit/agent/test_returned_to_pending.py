"""Giving back: whose trouble it is that a VM does not start, and what follows from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_rig import IMAGE, KEYS, Lab, lab_of, vm

from metastack.agent.reconcile.give_back import HAND_OVERS_APART_S, PENALTY_TTL_S
from metastack.core.model import Image, ImageState, Penalty, Phase, VmStatus
from metastack.core.state.codec import decode, encode
from metastack.core.state.keys import Kind
from metastack.lab.sim.engine.loop import run
from metastack.ports import (
    BadState,
    CannotStart,
    Denied,
    InUse,
    InvalidImage,
    LocalTrouble,
    NotFound,
    Refused,
    Unavailable,
    UnknownOutcome,
)


def status(lab: Lab, name: str) -> VmStatus | None:
    raw = lab.entry(KEYS.vm_status(vm(name)))
    return decode(VmStatus, raw) if raw else None


def penalties(lab: Lab) -> dict[str, Penalty]:
    found = lab.cluster.under(KEYS.prefix(Kind.PENALTY))
    return {entry.key.rsplit("/", 1)[1]: decode(Penalty, entry.value) for entry in found}


def fails(lab: Lab, node: str, error: Callable[[], Exception]) -> None:
    lab.hosts[node].hypervisor.fail = lambda what, _uuid: error() if what == "start" else None


async def with_image(lab: Lab) -> None:
    await lab.put(
        KEYS.image("debian"), encode(Image(name="debian", uuid=IMAGE, state=ImageState.READY, size_bytes=512))
    )


@pytest.mark.parametrize(
    "error",
    [
        CannotStart("QEMU exits"),
        Denied("the key is refused"),
        LocalTrouble("No space left on device"),
        UnknownOutcome("libvirtd hangs"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_reason_of_this_node_gives_it_back(tmp_path: Path, error: Exception) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            await with_image(lab)
            fails(lab, "n1", lambda: error)
            fails(lab, "n2", lambda: error)
            await lab.want("a")
            await lab.until("somebody has it", lambda: status(lab, "a"))
            first = status(lab, "a").node  # type: ignore[union-attr]
            other = {"n1": "n2", "n2": "n1"}[first]
            lab.hosts[other].hypervisor.fail = lambda _what, _uuid: None
            await lab.until("it runs elsewhere", lambda: lab.where("a") == other, within_s=20)
            penalty = penalties(lab)[first]
            assert penalty.reason == str(error)
            assert penalty.tries == 3
            await lab.until("the penalty ends", lambda: not penalties(lab), within_s=PENALTY_TTL_S + 30)
            assert lab.where("a") == other

    run(play())


@pytest.mark.parametrize(
    "error",
    [
        InUse("another has it open"),
        NotFound("its disk is missing"),
        InvalidImage("the image is corrupt"),
        BadState("its snapshot is not protected"),
        Refused("whoever says so without a kind"),
        Unavailable("the storage does not answer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_objects_own_trouble_gives_it_back_to_nobody(tmp_path: Path, error: Exception) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            await with_image(lab)
            for node in lab.hosts:
                fails(lab, node, lambda: error)
            await lab.want("a")
            await lab.until("somebody has it", lambda: status(lab, "a"))
            node = status(lab, "a").node  # type: ignore[union-attr]
            await asyncio.sleep(200)
            found = status(lab, "a")
            assert found is not None and found.node == node
            assert not penalties(lab)
            assert lab.hosts[node].agent is not None

    run(play())


def test_when_all_have_failed_it_stays_failed_with_each_reason(tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            await with_image(lab)
            for node in lab.hosts:
                fails(lab, node, lambda node=node: CannotStart(f"no QEMU on {node}"))  # type: ignore[misc]
            await lab.want("a")
            await lab.until("it was given back", lambda: penalties(lab))
            (first,) = penalties(lab)
            begun_s = asyncio.get_running_loop().time()
            told: set[str] = set()

            def all_said() -> bool:
                found = status(lab, "a")
                if found is None:
                    return False
                told.add(found.node)
                return found.phase is Phase.FAILED and "it fits no other node" in found.message

            await lab.until("it says so", all_said)
            found = status(lab, "a")
            assert found is not None
            assert found.node != first
            assert "no QEMU on n1" in found.message and "no QEMU on n2" in found.message
            assert found.retry_at, "it is tried again"
            await asyncio.sleep(2 * HAND_OVERS_APART_S)
            assert penalties(lab).keys() == {first}, "the last one keeps it"
            assert asyncio.get_running_loop().time() - begun_s > HAND_OVERS_APART_S
            # Whoever starts it writes its spec once more: every node is tried, at once.
            lab.hosts[first].hypervisor.fail = lambda _what, _uuid: None
            await lab.want("a")
            await lab.until("it is tried again", lambda: lab.where("a") == first, within_s=20)

    run(play())


def test_it_is_handed_over_once_a_minute_at_most(tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=3) as lab:
            await with_image(lab)
            for node in lab.hosts:
                fails(lab, node, lambda: CannotStart("no QEMU"))
            await lab.want("a")
            await lab.until("once", lambda: len(penalties(lab)) == 1)
            took_s = await lab.until("twice", lambda: len(penalties(lab)) == 2, within_s=200)
            assert took_s >= HAND_OVERS_APART_S - 1

    run(play())
