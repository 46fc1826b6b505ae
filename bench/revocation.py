"""etcd revokes the lease of a node that is well, by mistake: does a guest notice?

The node sees its own key vanish and registers again; the others wait for the grace. One that answers within the
grace must not be fenced, and no guest of it may end. One that does not (this machine had no time for it) may.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from dataclasses import dataclass, field

from bench.harness import Result, row, say
from metastack.lab.dev.chaos.run import Round, Rounds
from metastack.lab.dev.chaos.stage import Stage, stage
from metastack.lab.dev.fabric import tool_environment
from metastack.lab.dev.records import Records

RUNS = 30
VMS = 3
TTL_S = 5
GRACE_S = 0.5
WITHIN_S = 60.0


@dataclass
class Watch:
    """Deletions and puts of alive keys with the moment at which etcd's watch told them."""

    records: Records
    seen: list[tuple[float, str, bool]] = field(default_factory=list)

    def __enter__(self) -> Watch:
        environment = {**tool_environment(), "ETCDCTL_API": "3"}
        self._process = subprocess.Popen(
            self.records.watch_nodes(), stdout=subprocess.PIPE, text=True, env=environment
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._thread.join(10)
        self._process.wait(10)
        if self._process.stdout:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            now_s = time.monotonic()
            for event in json.loads(line).get("Events", []):
                node = base64.b64decode(event["kv"]["key"]).decode().rsplit("/", 1)[1]
                self.seen.append((now_s, node, event.get("type", 0) != 0))

    def absence_s(self, node: str, since: int) -> float | None:
        """How long the node's key was gone, from the ``since``-th event on; None while that is not known."""
        gone_s = None
        for at_s, name, deleted in self.seen[since:]:
            if name == node and deleted and gone_s is None:
                gone_s = at_s
            elif name == node and not deleted and gone_s is not None:
                return at_s - gone_s
        return None


def run(runs: int | None = None) -> Result:
    with stage(VMS, say, ttl_s=TTL_S) as there:
        return _measure(there, runs or RUNS)


def _measure(there: Stage, runs: int) -> Result:
    cluster, rounds, names = there.cluster, Rounds(there), list(there.volumes)
    rounds.settle()
    seen = Round(number=1, faults=["lease-revoked"], kinds=[])
    absences: list[float] = []
    cases: list[dict[str, object]] = []
    with Watch(cluster.records) as watch:
        for number in range(runs):
            node = cluster.state.nodes[number % len(cluster.state.nodes)]
            before = {name: there.ears.last(name) for name in names}
            mine = [name for name, ack in before.items() if ack is not None and ack.node == node]
            events, pids = len(watch.seen), there.qemus()
            cluster.records.revoke(node)
            absence_s = _until_back(watch, node, events)
            rounds.settle()
            ended = sorted(pids.keys() - there.qemus().keys())
            instances = {name: (a.inst if (a := there.ears.last(name)) else "") for name in names}
            restarted = [name for name in names if (b := before[name]) is None or instances[name] != b.inst]
            rounds.look(seen)
            absences.append(absence_s)
            cases.append(
                {
                    "node": node,
                    "guests": mine,
                    "absent_s": round(absence_s, 3),
                    "qemus_ended": ended,
                    "restarted": restarted,
                }
            )
            what = f"{node} with {len(mine)} guests: absent {absence_s:.3f} s"
            say(f"  {number + 1} of {runs}: {what}, restarted: {', '.join(restarted) or 'none'}")
    quick = [case for case, absent_s in zip(cases, absences, strict=True) if absent_s < GRACE_S]
    if not quick:
        raise RuntimeError(f"no node answered within the grace: {absences}")
    return Result(
        rows=[
            row("false revocation: alive key absent", "s", absences),
            row(
                "false revocation: guests restarted, node back within the grace",
                "",
                [len(case["restarted"]) for case in quick],  # type: ignore[arg-type]
                limit=0,
            ),
            row("false revocation: overlaps and lost writes", "", [len(seen.violations)], limit=0),
        ],
        raw={
            "lease_ttl_s": TTL_S,
            "grace_s": GRACE_S,
            "runs": runs,
            "answered_within_the_grace": len(quick),
            "restarts_in_all_runs": sum(len(case["restarted"]) for case in cases),  # type: ignore[misc,arg-type]
            "cases": cases,
            "violations": [str(violation) for violation in seen.violations],
        },
    )


def _until_back(watch: Watch, node: str, since: int) -> float:
    deadline = time.monotonic() + WITHIN_S
    while (absence_s := watch.absence_s(node, since)) is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{node} is not back within {WITHIN_S} s: {watch.seen[since:]}")
        time.sleep(0.02)
    return absence_s
