"""``cluster upgrade-check`` as a process: its exit status is what a playbook goes by."""

from __future__ import annotations

import json

import pytest
from cli_program import Program
from commands_rig import Rig

from metastack.core.model import ClusterConfig
from metastack.core.state.record_versions import LEVEL

pytestmark = pytest.mark.etcd


async def test_the_exit_status_says_whether_anything_blocks(program: Program, rig: Rig) -> None:
    await rig.put(rig.keys.cluster(), ClusterConfig(record_version=LEVEL))
    await rig.node("n1")
    free = await program("cluster", "upgrade-check")
    assert free.status == 0 and "may begin" in free.err
    assert "metastack cluster backup" in free.out  # a warning, with what to type
    await rig.node("n2", ready=False)
    blocked = await program("cluster", "upgrade-check", "-o", "json")
    view = json.loads(blocked.out)
    assert (blocked.status, view["ready"]) == (1, False)
    assert [one["object"] for one in view["findings"] if one["severity"] == "error"] == ["node n2"]
