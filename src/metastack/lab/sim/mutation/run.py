"""The mutation check: takes each safety step away in turn and demands that somebody notices.

Owns: which catchers are asked in which order, the verdicts and their memory. Refuses: patching (mutant) and
knowing the steps (mutation_list). Rule: a mutation that nobody notices fails the check, and so does a control
that somebody does.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from ..runs.seeds import source_of
from .all import MUTATIONS
from .boot_gate import ABOUT, WITHOUT
from .mutant import RANKS
from .mutation import Mutation

TABLES = ("test:unit/core/test_plan.py", "test:unit/agent/test_attack_protocol.py")
"""Table and protocol tests that run without any real part."""
SEEDS = 60
EACH_S = 90.0
"""CPU seconds for one mutation."""
CONTROL_SEEDS = 12
ROOT = Path(__file__).parents[5] / "tests"
MEMORY = "sim/mutations.json"


class Verdict(msgspec.Struct, kw_only=True):
    """What came of one mutation."""

    name: str
    step: str
    ok: bool
    harmless: bool = False
    catcher: str = ""
    evidence: str = ""
    """Which judge (or ``expected``, ``test``) said so."""
    says: str = ""
    asked: int = 0
    seconds: float = 0.0


def remembered(root: Path) -> dict[str, str]:
    """What saw each mutation last time."""
    path = root / MEMORY
    return msgspec.json.decode(path.read_bytes(), type=dict[str, str]) if path.exists() else {}


def catchers(mutation: Mutation, root: Path, seeds: int) -> list[str]:
    """Everybody who might notice, the likeliest first."""
    scenarios = [f"scenario:{path.parent.name}" for path in sorted((root / "scenarios").glob("*/script"))]
    if not mutation.gate and (not mutation.harmless or mutation.patches == WITHOUT):
        scenarios = [name for name in scenarios if name.partition(":")[2] not in ABOUT]
    about = [name if ":" in name else f"scenario:{name}" for name in mutation.seen_by]
    last = remembered(root).get(mutation.name, "")
    if last.startswith("test:") and not (root / last.removeprefix("test:")).exists():
        last = ""  # the file has another name now: pytest would fail on it whatever the mutation does
    tables = [table for table in TABLES if (root / table.partition(":")[2]).exists()]
    count = min(seeds, CONTROL_SEEDS) if mutation.harmless else seeds
    rest = [*scenarios, *(f"seed:{seed}" for seed in range(1, count + 1))]
    if mutation.harmless:
        return [*rest] if mutation.patches else [*tables, *rest]
    order = [*([last] if last else []), *(name for name in about if name in scenarios or ":" in name)]
    return list(dict.fromkeys([*order, *rest[: len(scenarios)], *tables, *rest[len(scenarios) :]]))


def _ask(name: str, root: Path, seconds: float, whom: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [*(sys.executable, "-m", "metastack.lab.sim.mutation.mutant", name, str(root), str(seconds)), *whom],
        capture_output=True,
        check=False,
        timeout=10 * seconds + 300,
    )
    try:
        found: dict[str, Any] = msgspec.json.decode(done.stdout.splitlines()[-1])
    except (IndexError, msgspec.DecodeError):
        return {"catcher": "", "says": done.stderr.decode(errors="replace")[-300:], "broken": True}
    return found


def judge(mutation: Mutation, root: Path, seeds: int, seconds: float) -> Verdict:
    """Take one step away, in a process of its own.

    A group is noticed only as a whole: as long as one of its patches is left out, its catcher sees nothing.
    """
    begun = time.monotonic()
    found = _ask(mutation.name, root, seconds, catchers(mutation, root, seeds))
    noticed, ok = bool(found["catcher"]), True
    if noticed and len(mutation.patches) > 1 and not mutation.one_edit:
        for number in range(len(mutation.patches)):
            rest = _ask(f"{mutation.name}~{number}", root, seconds, [found["catcher"]])
            if rest["catcher"]:
                ok, found["says"] = (
                    False,
                    f"is seen without patch {number}, which proves nothing: {rest['says']}",
                )
                break
    weak = RANKS.get(found.get("evidence", ""), 0) < RANKS[mutation.evidence]
    if noticed and weak and not mutation.harmless:
        ok, found["says"] = False, f"weaker evidence than {mutation.evidence}: {found['says']}"
    return Verdict(
        name=mutation.name,
        step=mutation.step,
        harmless=mutation.harmless,
        ok=ok
        and noticed is not mutation.harmless
        and not found.get("broken")
        and not (mutation.harmless and found.get("late")),
        catcher=found["catcher"],
        evidence=found.get("evidence", ""),
        says=found["says"],
        asked=found.get("asked", 0),
        seconds=round(time.monotonic() - begun, 1),
    )


def judge_all(
    only: Iterable[str] = (), *, root: Path = ROOT, seeds: int = SEEDS, budget_s: float = 0.0, jobs: int = 1
) -> Iterator[Verdict]:
    """Verdicts in the list's order; those that the budget does not reach are not ok."""
    wanted, end_s = set(only), time.monotonic() + budget_s

    def one(mutation: Mutation) -> Verdict:
        left_s = min(EACH_S, end_s - time.monotonic()) if budget_s else EACH_S
        if left_s <= 0:
            return Verdict(name=mutation.name, step=mutation.step, ok=False, says="the budget is used up")
        return judge(mutation, root, seeds, left_s)

    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(one, (m for m in MUTATIONS if not wanted or m.name in wanted))


def remember(root: Path, verdicts: Iterable[Verdict]) -> None:
    """Keep who saw what, for the next time's order."""
    known = remembered(root)
    known.update({verdict.name: verdict.catcher for verdict in verdicts if verdict.ok and verdict.catcher})
    names = {mutation.name for mutation in MUTATIONS}
    text = msgspec.json.encode({name: known[name] for name in sorted(known) if name in names})
    (root / MEMORY).write_bytes(msgspec.json.format(text) + b"\n")


def record(path: Path, verdicts: Sequence[Verdict], real_s: float, jobs: int) -> None:
    """Write down who saw what, of which source, and how long the list took."""
    found = {
        "command": f"metastack sim mutations --jobs {jobs}",
        "source": source_of(),
        "real_s": real_s,
        "jobs": jobs,
        "mutations": sum(not verdict.harmless for verdict in verdicts),
        "caught": sum(verdict.ok for verdict in verdicts if not verdict.harmless),
        "controls": sum(verdict.harmless for verdict in verdicts),
        "controls_green": sum(verdict.ok for verdict in verdicts if verdict.harmless),
        "evidence": dict(sorted(Counter(v.evidence for v in verdicts if not v.harmless).items())),
        "verdicts": verdicts,
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
