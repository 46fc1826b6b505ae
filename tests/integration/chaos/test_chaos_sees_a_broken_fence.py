"""The judge on real parts, seen red: with a fence that blocks nobody, two guests write one disk; it says so.

The victim is cut off from etcd only: its guest goes on writing for as long as nobody shuts it out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from metastack.lab.dev.chaos.faults import Fault, Kind
from metastack.lab.dev.chaos.judge import ViolationKind
from metastack.lab.dev.chaos.run import Rounds
from metastack.lab.dev.chaos.schedule import Planned
from metastack.lab.dev.chaos.stage import stage
from metastack.lab.dev.cluster import Cluster
from metastack.lab.dev.host import Host

pytestmark = [pytest.mark.proof, pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]

MUTANT = Path(__file__).with_name("mutant")


class Mutated(Cluster):
    """A cluster whose agents load the mutant first."""

    def _agent(self, host: Host) -> None:
        super()._agent(host)
        host.stop_agent()
        host.start_agent({"PYTHONPATH": str(MUTANT)})


def test_a_fence_that_blocks_nobody_is_seen(tmp_path: Path) -> None:
    """The control, the same fault with a fence that blocks, is among the rounds of test_chaos_command."""
    with stage(1, lambda text: print(text, file=sys.stderr), Mutated, folder=tmp_path) as there:
        rounds = Rounds(there)
        rounds.settle()
        heard = there.ears.last("vm1")
        assert heard is not None
        cut = Fault(kind=Kind.CUT_ETCD, target=heard.node, begin_s=0.0, hold_s=25.0)
        done = rounds.play(Planned(number=1, faults=(cut,)))
        print(done)
        assert done.vms["vm1"]["instances"] > 1, f"nobody took it over\n{rounds.seen()}"
        crimes = {violation.crime for violation in done.violations}
        assert {ViolationKind.OVERLAP, ViolationKind.LOST_WRITE} & crimes, rounds.seen()
