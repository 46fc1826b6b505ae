"""What chaos plays is a function of seed and round number, and every fault gets its turn."""

from __future__ import annotations

import os
import subprocess
import sys

from metastack.lab.dev.chaos.faults import ROLES, SHAPES, TTL_S, Kind
from metastack.lab.dev.chaos.schedule import planned


def test_the_same_in_every_process() -> None:
    argv = [
        sys.executable,
        "-m",
        "metastack.cli.main",
        "dev",
        "chaos",
        "--seed",
        "4",
        "--plan",
        "--rounds",
        "30",
    ]
    said = {
        subprocess.run(
            argv, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(said) == 1
    lines = said.pop().splitlines()
    assert len(lines) == 30
    assert lines[6].split(maxsplit=1)[1] == "; ".join(str(f) for f in planned(4, 7).faults)


def test_a_round_does_not_depend_on_others() -> None:
    forward = [planned(9, number) for number in range(1, 40)]
    backward = [planned(9, number) for number in range(39, 0, -1)]
    assert forward == backward[::-1]
    assert forward != [planned(10, number) for number in range(1, 40)]


def test_200_rounds_hold_every_kind_and_overlaps() -> None:
    for seed in range(5):
        rounds = [planned(seed, number) for number in range(200)]
        assert {fault.kind for one in rounds for fault in one.faults} == set(Kind)
        pairs = [one.faults for one in rounds if len(one.faults) == 2]
        assert 60 < len(pairs) < 120
        both = [a for a, b in pairs if a.hold_s and b.begin_s <= a.hold_s]
        assert len(both) > 40, "most pairs overlap"
        alone = sum(fault.kind is Kind.ETCD_QUORUM_LOST for one in rounds for fault in one.faults)
        assert 1 <= alone <= 20, "rare: it lasts up to a minute"


def test_never_the_same_place_twice_in_a_round() -> None:
    for number in range(2000):
        faults = planned(1, number).faults
        assert len({fault.target for fault in faults}) == len(faults)
        for fault in faults:
            shape = SHAPES[fault.kind]
            assert fault.target in (ROLES if shape.place == "node" else (shape.place,))
            assert shape.hold_s[0] <= fault.hold_s <= shape.hold_s[1]


def test_only_the_kinds_asked_for() -> None:
    for number in range(50):
        for fault in planned(3, number, [Kind.OSD_KILLED, Kind.POWER_CUT]).faults:
            assert fault.kind in (Kind.OSD_KILLED, Kind.POWER_CUT)
        assert len(planned(3, number, [Kind.OSD_KILLED]).faults) == 1


def test_freezes_are_shorter_and_longer_than_the_lease() -> None:
    assert SHAPES[Kind.AGENT_FROZEN_BRIEFLY].hold_s[1] < TTL_S
    assert SHAPES[Kind.AGENT_FROZEN_LONG].hold_s[0] > TTL_S + 1
