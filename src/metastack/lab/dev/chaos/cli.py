"""``metastack dev chaos``: its options, its progress, its record.

Owns: how long it goes on, the result file's line, and the exit code. Refuses: knowing what a round is.
Rule: every run that judged a round leaves its line, also one that was interrupted.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from enum import StrEnum
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from .faults import HARMLESS, SHAPES, Kind


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


def chaos(
    minutes: Annotated[float, typer.Option(min=0.0, help="Minutes after which no round begins.")] = 10.0,
    rounds: Annotated[int | None, typer.Option(min=1, help="Number of rounds; overrides --minutes.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the faults. [default: random, printed]")] = None,
    first: Annotated[int, typer.Option(min=1, help="Number of the first round.")] = 1,
    kind: Annotated[list[Kind] | None, typer.Option(help="Only faults of this kind; repeatable.")] = None,
    vms: Annotated[int, typer.Option(min=1, max=12, help="Number of heartbeat guests.")] = 4,
    append: Annotated[Path | None, typer.Option(help="Append a JSON line about this run to a file.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the schedule only; run nothing.")] = False,
    output: Annotated[
        Output,
        typer.Option(
            "-o", "--output", help="Output format: table or json (a line per round, then one for the run)."
        ),
    ] = Output.TABLE,
) -> None:
    """Inject faults into a temporary cluster and check that no write is lost.

    The check reads the disks. Exit 1 on any violation. The same seed plays the same faults.
    """
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    kinds = list(kind or ())
    if plan:
        _plan(seed, first, rounds or 20, kinds)
        return
    kinds = _playable(kinds)
    run = Run(seed=seed, first=first, kinds=kinds, vms=vms, output=output)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        run.go(minutes * 60, rounds)
    except KeyboardInterrupt:
        run.say("interrupted: everything was stopped")
        run.interrupted = True
    summary = run.summary()
    if append is not None and run.rounds:
        with append.open("a") as file:
            file.write(json.dumps(summary) + "\n")
    print(json.dumps(summary) if output is Output.JSON else told(summary))
    if run.violations:
        raise typer.Exit(1)
    if run.interrupted:
        raise typer.Exit(130)


def _playable(kinds: list[Kind]) -> list[Kind]:
    """The kinds that this machine can play. Others are named; if requested they are refused."""
    from .orders import unplayable

    missing = unplayable()
    for kind, why in missing.items():
        print(f"{'error' if kind in kinds else 'note'}: {kind} cannot be played: {why}", file=sys.stderr)
    if missing.keys() & set(kinds):
        raise typer.Exit(2)
    return kinds or ([kind for kind in SHAPES if kind not in missing] if missing else [])


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _plan(seed: int, first: int, rounds: int, kinds: list[Kind]) -> None:
    from .schedule import planned

    for number in range(first, first + rounds):
        faults = planned(seed, number, kinds).faults
        print(f"{number:4}  {'; '.join(str(fault) for fault in faults)}")


class Run:
    """One run of the command."""

    def __init__(self, *, seed: int, first: int, kinds: list[Kind], vms: int, output: Output) -> None:
        self.seed, self.first, self.kinds, self.vms, self.output = seed, first, kinds, vms, output
        self.rounds: list[Any] = []
        self.interrupted = False
        self.begun_s = time.monotonic()
        self.date = datetime.now(UTC)

    @property
    def violations(self) -> list[Any]:
        return [violation for one in self.rounds for violation in one.violations]

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def go(self, seconds: float, rounds: int | None) -> None:
        """Play until the time or the rounds are over, or something is wrong."""
        from .run import Rounds
        from .schedule import planned
        from .stage import stage

        self.say(f"chaos: seed {self.seed}, {'round' if rounds == 1 else 'rounds'} from {self.first}")
        with tempfile.TemporaryDirectory(prefix="msl", dir="/tmp") as folder:
            consoles = Path(folder) / "consoles.log"
            with stage(self.vms, self.say, folder=Path(folder)) as there:
                play = Rounds(there)
                play.settle()
                self.begun_s = time.monotonic()
                number = self.first
                while number - self.first < rounds if rounds else time.monotonic() - self.begun_s < seconds:
                    one = play.play(planned(self.seed, number, self.kinds))
                    self.rounds.append(one)
                    self._tell(one)
                    if one.violations:
                        folder_kept = play.evidence(one, consoles)
                        self.say(f"{play.seen()}\nevidence: {folder_kept}\nplay it again: {self.again(number)}")
                        return
                    number += 1

    def again(self, number: int) -> str:
        kinds = "".join(f" --kind {kind}" for kind in self.kinds)
        return f"metastack dev chaos --seed {self.seed} --first {number} --rounds 1 --vms {self.vms}{kinds}"

    def _tell(self, one: Any) -> None:
        if self.output is Output.JSON:
            print(msgspec.json.encode(one).decode(), flush=True)
        moved = sum(story["instances"] > 1 for story in one.vms.values())
        worst = max(story["silence_s"] for story in one.vms.values())
        verdict = "ok" if not one.violations else f"{len(one.violations)} VIOLATIONS"
        self.say(
            f"{one.number:4}  {'; '.join(one.faults)}  held {one.hold_s:.0f} s, "
            f"whole after {one.converge_s:.1f} s, {moved} of {len(one.vms)} restarted, silent {worst:.1f} s"
            f"{', brake said' if one.brake_said else ''}, {one.acknowledged} acknowledged: {verdict}"
        )
        for violation in one.violations:
            self.say(f"      {violation.crime}: {violation.vm}: {violation.what}")

    def summary(self) -> dict[str, Any]:
        """The line of the result file."""
        kinds = [kind for one in self.rounds for kind in one.kinds]
        stories = [story for one in self.rounds for story in one.vms.values()]
        crimes = [str(violation.crime) for violation in self.violations]
        return {
            "date": self.date.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "commit": _commit(),
            "seed": self.seed,
            "first": self.first,
            "rounds": len(self.rounds),
            "minutes": round((time.monotonic() - self.begun_s) / 60, 1),
            "vms": self.vms,
            "interrupted": self.interrupted,
            "only": [str(kind) for kind in self.kinds],
            "faults": {str(kind): kinds.count(kind) for kind in SHAPES if kind in kinds},
            "overlaps": crimes.count("overlap"),
            "lost_acknowledged_writes": crimes.count("lost-write"),
            "other_violations": len([c for c in crimes if c not in ("overlap", "lost-write")]),
            "acknowledged_writes": sum(one.acknowledged for one in self.rounds),
            "unread_acknowledged_writes": sum(one.unread for one in self.rounds),
            "restarts": _restarts(self.rounds),
            "restarts_after_harmless_faults": _restarts(
                [one for one in self.rounds if HARMLESS.issuperset(one.kinds)]
            ),
            "back_s": _figures([s["back_s"] for s in stories if s.get("back_s") is not None]),
            "restarted_silence_s": _figures([s["silence_s"] for s in stories if s["instances"] > 1]),
            "brake_said_rounds": sum(one.brake_said for one in self.rounds),
            "violations": [msgspec.to_builtins(violation) for violation in self.violations],
        }


def told(summary: dict[str, Any]) -> str:
    """The run for a person."""
    back = summary["back_s"]
    return (
        f"{summary['rounds']} rounds in {summary['minutes']} min, seed {summary['seed']}: "
        f""
        f"{summary['overlaps']} overlaps, {summary['lost_acknowledged_writes']} lost of "
        f"{summary['acknowledged_writes']} acknowledged writes, {summary['other_violations']} other "
        f"violations; {summary['restarts']} restarts, "
        f"silent guests back {back['p50']} s (p95 {back['p95']} s) after the heal, "
        f"brake said in {summary['brake_said_rounds']} rounds"
    )


def _figures(samples: list[float]) -> dict[str, float | int | None]:
    ordered = sorted(samples)

    def at(percent: int) -> float | None:
        return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)] if ordered else None

    return {"n": len(ordered), "p50": at(50), "p95": at(95), "max": at(100)}


def _restarts(rounds: list[Any]) -> int:
    return sum(story["instances"] - 1 for one in rounds for story in one.vms.values())


def _commit() -> str | None:
    """The checkout's commit, marked when the sources differ from it; None outside a checkout."""
    top = Path(__file__).parents[5]

    def git(*words: str) -> str:
        argv = ["git", "-C", str(top), *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30, env={**os.environ})
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    return f"{commit}+" if commit and git("status", "--porcelain", "--", "src") else commit or None
