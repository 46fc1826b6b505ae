"""``deploy/bench [NAME …] [--json FILE]``: run benches, print their rows; exit 1 when a limit is missed."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.harness import RESULTS, Row, keep, say, table

BENCHES = {
    "boot": "create to running on three nodes, against a bare virsh create",
    "failover": "power cut to running elsewhere, at TTL 3 s and 5 s, step by step",
    "gate": "what asking the disk itself adds to a start, whole creates and failovers (minutes)",
    "idle": "CPU and memory of an agent when nothing happens",
    "cli": "CPU time of `vm list` with 200 VMs, and of --help",
    "logs": "central logs at 5,000 events/s (--runs N: N/s), the log host down for a minute",
    "outage": "what guests notice of 10 minutes (--runs N: N minutes) without etcd",
    "placement": "placement without a scheduler against one: simulation, a trace, cost (minutes)",
    "scale": "on a real etcd: claims/s, watch traffic, CPU of a follower (minutes; --runs N: N percent)",
    "claims8": "the claims/s of 8 agents out of scale (minutes; --runs N: N percent)",
    "follower": "an agent's CPU for each message out of scale (minutes; --runs N: N percent)",
    "claims200": "the claims/s of 200 agents out of scale (--runs N: N percent)",
    "secure": "what TLS and rights in etcd cost, in pairs with a plain cluster (minutes)",
    "revocation": "what guests notice when etcd revokes the lease of a node that is well",
}
"""Each is a module of this package with ``run(runs: int | None) -> Result``."""
MODULES = {
    "scale": "scale.whole",
    "claims8": "scale.claims8",
    "follower": "scale.follower",
    "claims200": "scale.claims200",
}
"""Where that is not the name."""
ONLY_BY_NAME = (
    "gate",
    "outage",
    "placement",
    "revocation",
    "secure",
    "scale",
    "claims8",
    "claims200",
    "follower",
)
"""Takes long, or says nothing about speed."""


def stoppable() -> None:
    """Asked to end, a bench ends what it started, as it does when it is interrupted from the keyboard."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once more would interrupt the ending
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, end)


def main(argv: Sequence[str]) -> int:
    """0: every limit kept; 1: one was missed, or a bench could not be run; 2: usage."""
    stoppable()
    listed = "\n".join(f"  {name:10} {what}" for name, what in BENCHES.items())
    parser = argparse.ArgumentParser(
        prog="deploy/bench",
        description="Measurements with their baselines.",
        epilog=f"benches; unless named all but {', '.join(ONLY_BY_NAME)}:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="*", choices=[*BENCHES, []], metavar="NAME")
    parser.add_argument("--json", metavar="FILE", help="write the rows as JSON; - is stdout")
    parser.add_argument("--runs", type=int, metavar="N", help="samples of each row, instead of the bench's own")
    parser.add_argument("--nodes-file", default="", metavar="CSV", help="placement: the nodes of a trace")
    parser.add_argument("--trace", default="", metavar="CSV", help="placement: the trace's tasks")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the raw records")
    chosen = parser.parse_args(list(argv))
    if bool(chosen.nodes_file) != bool(chosen.trace):
        parser.error("--nodes-file and --trace go together")
    # Files are meant from where the caller stands; the record says nothing of the machine's folders.
    files = {chosen.nodes_file, chosen.trace, chosen.json, str(chosen.results)} - {"", None, "-"}
    told = [Path(word).name if word in files else word for word in argv]
    document: dict[str, Any] = {}
    rows: list[Row] = []
    failed: list[str] = []
    for name in chosen.name or [name for name in BENCHES if name not in ONLY_BY_NAME]:
        say(f"bench {name}: {BENCHES[name]}")
        try:
            inputs = dict(nodes_file=chosen.nodes_file, trace=chosen.trace) if name == "placement" else {}
            result = importlib.import_module(f"bench.{MODULES.get(name, name)}").run(chosen.runs, **inputs)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in ("bench", "metastack"):
                raise
            say(f"bench {name} needs {error.name}; deploy/check installs it, deploy/quickstart does not")
            failed.append(name)
            continue
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        path = keep(name, result, ["deploy/bench", *told], chosen.results)
        say(f"bench {name}: raw results in {path}")
        rows += result.rows
        document |= result.document
    plain = [asdict(row) for row in rows]
    text = json.dumps({**document, "rows": plain} if document else plain, indent=1) + "\n"
    if chosen.json == "-":
        sys.stdout.write(text)
    else:
        print(table(rows))
        if chosen.json:
            Path(chosen.json).write_text(text)
    for name in failed:
        say(f"bench {name} could not be run")
    return 1 if failed or not all(row.ok for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
