"""etcd away for ten minutes: what guests notice of it, and whether every one is adopted afterwards.

All three members are killed at once. The guests, those of ``metastack dev chaos``, write all the while, and
their disks are judged every minute.
"""

from __future__ import annotations

import signal
import time
from itertools import pairwise

from bench.harness import Result, row, say
from metastack.lab.dev.chaos.run import Round, Rounds
from metastack.lab.dev.chaos.stage import Stage, stage

MINUTES = 10
VMS = 3
TTL_S = 5
AGAIN_WITHIN_S = 120.0


def run(runs: int | None = None) -> Result:
    minutes = runs or MINUTES
    with stage(VMS, say, ttl_s=TTL_S) as there:
        return _measure(there, minutes)


def _measure(there: Stage, minutes: int) -> Result:
    cluster, rounds, names = there.cluster, Rounds(there), list(there.volumes)
    rounds.settle()
    seen = Round(number=1, faults=["etcd-outage"], kinds=[])
    rounds.look(seen)
    pids, before = there.qemus(), {name: there.json("vm", "show", name) for name in names}
    begun_s = time.monotonic()
    for member in cluster.etcd.members:
        cluster.stop_etcd(member.name, signal.SIGKILL)
    down_s = time.monotonic()
    say(f"  etcd is down; {len(pids)} guests: {before}")
    ended: set[int] = set()
    for minute in range(minutes):
        while time.monotonic() < down_s + 60 * (minute + 1):
            ended |= pids.keys() - there.qemus().keys()
            time.sleep(1.0)
        rounds.look(seen)
        say(f"  minute {minute + 1}: {len(ended)} guests ended, {len(seen.violations)} violations")
    for member in cluster.etcd.members:
        cluster.start_etcd(member.name, wait=False)
    up_s = time.monotonic()
    rounds.settle()
    ready_s = time.monotonic()
    adopted_s = _until_adopted(there, before)
    ended |= pids.keys() - there.qemus().keys()
    rounds.look(seen)
    heard = {name: [ack for ack in there.ears.acks(name) if ack.heard_s >= begun_s] for name in names}
    silence = [max(b.heard_s - a.heard_s for a, b in pairwise(acks)) for acks in heard.values()]
    restarted = [len({ack.inst for ack in acks}) - 1 for acks in heard.values()]
    during = sum(down_s <= ack.heard_s <= up_s for acks in heard.values() for ack in acks)
    what = f"outage of {minutes} min"
    return Result(
        rows=[
            row(f"{what}: QEMUs ended, per guest", "", [pid in ended for pid in pids], limit=0),
            row(f"{what}: restarts, per guest", "", restarted, limit=0),
            row(f"{what}: overlaps and lost writes", "", [len(seen.violations)], limit=0),
            row(f"{what}: longest silence of a guest", "s", silence),
            row(f"{what}: etcd back to all nodes ready", "s", [ready_s - up_s]),
            row(f"{what}: etcd back to all guests adopted", "s", [adopted_s - up_s]),
        ],
        raw={
            "minutes": minutes,
            "lease_ttl_s": TTL_S,
            "down_s": round(up_s - down_s, 1),
            "acknowledged_writes_while_down": during,
            "unread_acknowledged_writes": seen.unread,
            "qemus": {str(pid): node for pid, node in pids.items()},
            "qemus_ended": sorted(ended),
            "silence_s": silence,
            "before": {name: _claim(shown) for name, shown in before.items()},
            "after": {name: _claim(there.json("vm", "show", name)) for name in names},
            "violations": [str(violation) for violation in seen.violations],
        },
    )


def _claim(shown: dict[str, object]) -> dict[str, object]:
    return {key: shown[key] for key in ("node", "session", "epoch", "phase")}


def _until_adopted(there: Stage, before: dict[str, dict[str, object]]) -> float:
    """Wait until every VM is claimed by a new session, in its old epoch: nobody booted it."""
    deadline = time.monotonic() + AGAIN_WITHIN_S
    while True:
        now = {name: there.json("vm", "show", name) for name in before}
        same = all(
            now[name]["phase"] == "running"
            and now[name]["session"] != before[name]["session"]
            and (now[name]["node"], now[name]["epoch"]) == (before[name]["node"], before[name]["epoch"])
            for name in before
        )
        if same:
            return time.monotonic()
        if time.monotonic() > deadline:
            raise RuntimeError(f"not adopted within {AGAIN_WITHIN_S} s: before {before}, now {now}")
        time.sleep(0.2)
