"""Nodes, VMs and refusals of the tests about places."""

from __future__ import annotations

from typing import Any

import pytest
from commands_rig import Rig, request

from metastack.commands.node import change as nodes
from metastack.commands.problem import Code, Problem
from metastack.commands.reading import read_engine_state
from metastack.commands.vm.create import NewVm
from metastack.core.model import ClusterConfig, VmId
from metastack.core.placement import PlacementEngine


def vm(name: str) -> VmId:
    return VmId("default", name)


def new(name: str = "hello", **more: Any) -> NewVm:
    return NewVm(**{"vm": vm(name), "image": "tiny", **more})


async def refused(awaitable: Any, code: Code, *says: str) -> Problem:
    with pytest.raises(Problem) as caught:
        await awaitable
    assert caught.value.code is code, caught.value
    for text in says:
        assert text in f"{caught.value} {caught.value.hint}"
    return caught.value


async def three(rig: Rig, *zones: str, memory_mib: int = 8192) -> dict[str, int]:
    """An image, and nodes n1, n2, ... in those zones; their sessions."""
    await rig.image()
    sessions = {}
    for n, zone in enumerate(zones or ("a", "b", "c"), 1):
        sessions[f"n{n}"] = await rig.node(f"n{n}", memory_mib=memory_mib)
        await nodes.label_node(rig.cluster, request(), f"n{n}", {"zone": zone}, set())
    return sessions


async def spare(rig: Rig, count: int = 1) -> None:
    await rig.put(rig.keys.cluster(), ClusterConfig(spare_nodes=count))


async def fill(rig: Rig, sessions: dict[str, int]) -> None:
    """Every waiting VM goes where it should."""
    while True:
        engine = PlacementEngine(await read_engine_state(rig.cluster))
        heads = [(wait.vm, wait.head[0]) for wait in engine.waiting.values() if wait.head]
        if not heads:
            return
        for name, node in heads:
            await rig.claim(node, sessions[node], name)


async def taint(rig: Rig, name: str, *texts: str) -> bool:
    return await nodes.taint_node(rig.cluster, request(), name, nodes.taint_changes(list(texts)))
