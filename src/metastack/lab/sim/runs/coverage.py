"""Coverage: which fault struck in the middle of which protocol step.

Owns: the table of fault kinds and steps, which of its cells are empty, and the sweep that aims at those.
Refuses: counting what cannot be: a fault is only counted in a step that was in progress at that moment, of its
victim, or of any node for faults of the whole cluster.
Rule: a cell counts when its fault struck there and the judges were content; what random seeds did not reach is
aimed at (lab/sim/script/coverage_aims.py), so that an empty cell is a fault that cannot strike, never bad luck.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from ..script.by_hand import BY_HAND
from ..script.catalogue import FAULTS
from ..script.coverage_aims import REQUEST_VERB, STEPS, TRIES, cell
from ..script.request_verbs import REQUEST_VERBS
from .play import play

KINDS: Final = (*(verb for verb in FAULTS if verb not in REQUEST_VERBS and verb not in BY_HAND), "wish")
"""Fault kinds; what people request is counted too, in one row."""
NEVER: Final[Mapping[tuple[str, str], str]] = {
    ("libvirtd-dies", "barrier"): "the barrier is libvirtd's restart: it is dead already",
}
"""Cells that cannot be, each with the reason."""
BATCH: Final = 40
"""Cells that one process sweeps before a new one takes over."""


class Aimed(msgspec.Struct, kw_only=True):
    """What came of aiming at one cell."""

    kind: str
    step: str
    number: int
    """The try that struck, or found a violation; the last one if none did."""
    struck: bool
    violations: list[str] = []

    @property
    def replay(self) -> str:
        """The one command that shows it again."""
        return f"metastack sim aim {self.kind} {self.step} --number {self.number}"


def aim(kind: str, step: str) -> Aimed:
    """Play a cell's script until its fault strikes in that step."""
    for number in range(TRIES):
        report = play(cell(kind, step, number))
        struck = bool(report.cells.get(f"{REQUEST_VERB if kind == 'wish' else kind} {step}"))
        if struck or report.violations:
            break
    return Aimed(kind=kind, step=step, number=number, struck=struck, violations=report.violations)


def sweep(cells: Iterable[tuple[str, str]], jobs: int = 1) -> Iterator[Aimed]:
    """Aim at each of these cells, in several processes."""
    wanted = list(cells)
    if jobs <= 1:
        yield from (aim(*one) for one in wanted)
        return

    def batch(part: list[tuple[str, str]]) -> list[Aimed]:
        words = [f"{kind}/{step}" for kind, step in part]
        done = subprocess.run([sys.executable, "-m", __name__, *words], capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"sweeping {words[0]} to {words[-1]}: {done.stderr.decode()[-2000:]}")
        return msgspec.json.decode(done.stdout, type=list[Aimed])

    with ThreadPoolExecutor(jobs) as pool:
        for part in pool.map(batch, [wanted[at : at + BATCH] for at in range(0, len(wanted), BATCH)]):
            yield from part


def everything() -> list[tuple[str, str]]:
    """Every cell that can be."""
    return [(kind, step) for step in STEPS for kind in KINDS if (kind, step) not in NEVER]


def empty(cells: Mapping[str, int]) -> list[tuple[str, str]]:
    """Cells that no seed reached."""
    counts = _counts(cells)
    return [one for one in everything() if not counts.get(one)]


def table(cells: Mapping[str, int], aimed: Iterable[Aimed] = ()) -> str:
    """Readable: one row a step, one column a fault kind; ``+`` only when aimed at, ``-`` cannot be."""
    counts = _counts(cells)
    struck = {(found.kind, found.step) for found in aimed if found.struck}
    width = max(map(len, STEPS)) + 1
    lines = [" " * width + " ".join(f"{number:>4d}" for number in range(1, len(KINDS) + 1))]
    for step in STEPS:
        row = []
        for kind in KINDS:
            one = (kind, step)
            mark = "+" if one in struck else "-" if one in NEVER else "0"
            row.append(f"{counts.get(one) or mark:>4}")
        lines.append(f"{step:<{width}}" + " ".join(row))
    names = [f"{number} {kind}" for number, kind in enumerate(KINDS, 1)]
    lines += [", ".join(names[at : at + 9]) for at in range(0, len(names), 9)]
    return "\n".join(lines)


def _counts(cells: Mapping[str, int]) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for name, count in cells.items():
        kind, _, step = name.partition(" ")
        kind = "wish" if kind in REQUEST_VERBS else kind
        counts[kind, step] = counts.get((kind, step), 0) + count
    return counts


if __name__ == "__main__":
    found = [aim(*word.split("/")) for word in sys.argv[1:]]
    sys.stdout.buffer.write(msgspec.json.encode(found))
