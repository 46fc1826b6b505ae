"""``metastack sim``: break a simulated cluster, running the agent's own code, and see whether it holds.

Exit status: 0 all is well, 1 a violation (or a log that differs, or an empty cell of coverage), 2 usage.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from metastack.cli.frame import noun

app = noun("sim", "The simulator.")


@app.callback()
def sim() -> None:
    """Simulate clusters with the agent's own code on a virtual clock, and inject faults."""


@app.command()
def run(
    seed: Annotated[int, typer.Option(help="First seed.")] = 1,
    seeds: Annotated[int, typer.Option(help="Number of seeds.", min=1)] = 1,
    nodes: Annotated[int, typer.Option(help="Compute nodes.", min=3, max=64)] = 3,
    vms: Annotated[int, typer.Option(help="VMs.", min=6, max=1000)] = 6,
    jobs: Annotated[int, typer.Option(help="Processes.", min=1, max=256)] = 1,
    seconds: Annotated[float, typer.Option(help="Seconds after which no seed starts; 0: play all.", min=0)] = 0,
    coverage: Annotated[
        bool,
        typer.Option(
            "--coverage",
            help="Also play a schedule for every cell that no seed reached; fail if one stays empty.",
        ),
    ] = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Upgrade the cluster during the run, node by node.")
    ] = False,
    append: Annotated[Path | None, typer.Option(help="Append a line to this result file (JSON lines).")] = None,
    shrink: Annotated[bool, typer.Option("--shrink/--no-shrink", help="Shrink the first failing seed.")] = True,
    output: Annotated[str, typer.Option("-o", "--output", help="text or json.")] = "text",
) -> None:
    """Play seeds: inject random overlapping faults, heal, and check that the cluster meets its spec."""
    import msgspec

    from .runs import coverage as cover
    from .runs.play import CONVERGE_S
    from .runs.seeds import append as add
    from .runs.seeds import run as run_seeds

    totals = run_seeds(seed, seeds, nodes=nodes, vms=vms, jobs=jobs, seconds=seconds, upgrade=upgrade)
    aimed = list(cover.sweep(cover.empty(totals.cells), jobs)) if coverage else []
    holes = [found for found in aimed if not found.struck]
    bad = [found for found in aimed if found.violations]
    if append is not None:
        add(append, totals)
    if output == "json":
        typer.echo(msgspec.json.format(msgspec.json.encode(totals)).decode())
    else:
        typer.echo(
            f"{totals.seeds} seeds, {totals.virtual_hours:.2f} virtual hours in {totals.real_s:.1f} s "
            f"({totals.speed:.0f} times real time), {totals.faults} faults of {len(totals.fault_kinds)} kinds"
        )
        typer.echo(
            f"slowest convergence {totals.slowest_convergence_s:.0f} s after healing (bound {CONVERGE_S:.0f}); "
            f"trace {totals.trace_hash}"
        )
        if coverage or seeds >= 50:
            typer.echo(cover.table(totals.cells, aimed))
        if coverage:
            every, missed = len(cover.everything()), len(aimed)
            typer.echo(
                f"coverage: {every} cells, {every - missed} by seeds, {missed - len(holes)} aimed at, "
                f"{len(holes)} empty; {len(cover.NEVER)} cannot be"
            )
        for failure in totals.failures:
            typer.echo(f"seed {failure.seed} FAILED: {failure.replay}")
            for line in failure.violations[:5]:
                typer.echo(f"  {line}")
        for hole in holes:
            typer.echo(f"never happened: {hole.kind} x {hole.step}: {hole.replay}")
        for found in bad:
            typer.echo(f"{found.kind} x {found.step} FAILED: {found.replay}")
            for line in found.violations[:5]:
                typer.echo(f"  {line}")
        typer.echo(f"{totals.violations} violations")
    if totals.failures and shrink and output != "json":
        from .runs.seeds import script_of
        from .runs.shrink import shrink as shortest

        script, why = shortest(script_of(totals.failures[0].seed, nodes, vms, upgrade))
        typer.echo(f"shrunk to {len(script.steps)} steps ({why[0]}):\n{script}")
    if totals.failures or holes or bad:
        raise typer.Exit(1)


@app.command()
def replay(
    seed: Annotated[int, typer.Argument(help="The seed.")],
    nodes: Annotated[int, typer.Option(help="Compute nodes.", min=3)] = 3,
    vms: Annotated[int, typer.Option(help="VMs.", min=6)] = 6,
    script: Annotated[bool, typer.Option("--script", help="Print the script of the seed only.")] = False,
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Play it as `run --upgrade` does.")] = False,
) -> None:
    """Play one seed and print everything that happened."""
    from .runs.play import play
    from .runs.seeds import script_of

    found = script_of(seed, nodes, vms, upgrade)
    if script:
        typer.echo(str(found), nl=False)
        return
    report = play(found, keep=True)
    typer.echo("\n".join(report.lines))
    typer.echo(f"trace {report.trace_hash}, {len(report.violations)} violations")
    for line in report.violations:
        typer.echo(f"  {line}")
    if report.violations:
        raise typer.Exit(1)


@app.command()
def aim(
    kind: Annotated[str, typer.Argument(help="Fault or request.")],
    step: Annotated[str, typer.Argument(help="Step of the protocol.")],
    number: Annotated[int, typer.Option(help="Number of the attempt.", min=0)] = 0,
    script: Annotated[bool, typer.Option("--script", help="Print the script only.")] = False,
) -> None:
    """Play the short schedule of one cell of coverage: a fault in the middle of a step."""
    from .runs import coverage as cover
    from .runs.play import play
    from .script.coverage_aims import STEPS, cell

    if kind not in cover.KINDS or step not in STEPS:
        typer.echo(f"error: faults: {' '.join(cover.KINDS)}; steps: {' '.join(STEPS)}", err=True)
        raise typer.Exit(2)
    found = cell(kind, step, number)
    if script:
        typer.echo(str(found), nl=False)
        return
    report = play(found, keep=True)
    typer.echo("\n".join(report.lines))
    typer.echo(
        f"struck in: {', '.join(sorted(report.cells)) or 'nothing'}; {len(report.violations)} violations"
    )
    for line in report.violations:
        typer.echo(f"  {line}")
    if report.violations:
        raise typer.Exit(1)


@app.command()
def scenario(
    folders: Annotated[list[Path], typer.Argument(help="Scenarios, or folders of them.")],
    update: Annotated[bool, typer.Option("--update", help="Write log.expect.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Print the whole trace.")] = False,
) -> None:
    """Play scenarios and compare their logs with the expected ones."""
    from .runs.scenario import scenario as play_one
    from .script.script import ScriptError

    wrong = 0
    inside = (p.parent for folder in folders for p in sorted(folder.glob("*/script")))
    for folder in (*(f for f in folders if (f / "script").exists() or not list(f.glob("*/script"))), *inside):
        try:
            outcome = play_one(folder, update)
        except (OSError, ScriptError) as error:
            typer.echo(f"error: {folder}: {error}", err=True)
            raise typer.Exit(2) from None
        if log:
            typer.echo("\n".join(outcome.report.lines))
        bad = bool(outcome.violations or outcome.difference)
        wrong += bad
        typer.echo(f"{'FAILED' if bad else 'ok':<7}{outcome.name}")
        for line in (*outcome.violations, *outcome.difference):
            typer.echo(f"  {line}")
    if wrong:
        raise typer.Exit(1)


@app.command()
def mutations(
    only: Annotated[list[str] | None, typer.Option(help="Only this mutation; repeatable.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds to try last.", min=0)] = 60,
    budget: Annotated[float, typer.Option(help="Seconds for the whole list; 0: no limit.", min=0)] = 0,
    tests: Annotated[Path | None, typer.Option(help="Folder of the tests; default: this checkout's.")] = None,
    remember: Annotated[
        bool, typer.Option("--remember", help="Record which check caught which mutation, for later runs.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Processes.", min=1, max=256)] = 1,
    record: Annotated[
        Path | None, typer.Option(help="Write the verdicts, the commit and the time into this file (JSON).")
    ] = None,
    output: Annotated[str, typer.Option("-o", "--output", help="text or json.")] = "text",
) -> None:
    """Remove each safety step in turn: a test must notice. Needs a checkout (tests are not shipped)."""
    import msgspec

    from .mutation import run as check
    from .mutation.all import MUTATIONS

    root = tests if tests is not None else check.ROOT
    names = {mutation.name for mutation in MUTATIONS}
    if not (root / "scenarios").is_dir() or not set(only or ()) <= names:
        typer.echo(
            f"error: {root}/scenarios is missing, or no such mutation; there are: {' '.join(sorted(names))}",
            err=True,
        )
        raise typer.Exit(2)
    verdicts, begun = [], time.monotonic()
    for verdict in check.judge_all(only or (), root=root, seeds=seeds, budget_s=budget, jobs=jobs):
        verdicts.append(verdict)
        if output != "json":
            typer.echo(
                f"{'ok' if verdict.ok else 'FAILED':<7}{verdict.name:<26}{verdict.seconds:6.1f} s  "
                f"{verdict.evidence or 'nothing':<12}{verdict.catcher or 'nobody'}: {verdict.says}"
            )
    if record is not None:
        check.record(record, verdicts, round(time.monotonic() - begun, 1), jobs)
    if remember:
        check.remember(root, verdicts)
    if output == "json":
        typer.echo(msgspec.json.format(msgspec.json.encode(verdicts)).decode())
    else:
        typer.echo(f"{sum(verdict.ok for verdict in verdicts)} of {len(verdicts)} as they should be")
    if not all(verdict.ok for verdict in verdicts):
        raise typer.Exit(1)
