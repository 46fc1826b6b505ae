"""One mutation in a process of its own: patches the source while it is loaded, then asks who notices.

Owns: the import hook, and playing catchers in order until one sees it. Refuses: judging more than one:
``python -m metastack.lab.sim.mutation.mutant NAME ROOT BUDGET CATCHER...`` prints one JSON object.
Rule: what is caught must be the missing step, not a broken patch: an agent that dies of a NameError is an error
of the list.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from .all import MUTATIONS
from .boot_gate import WITHOUT
from .mutation import Mutation, Patch

JUDGES = ("two_writers", "one_claim", "growing", "fence", "destroyed", "brake", "view", "not_ready", "group")
"""Kinds of violation that are damage, or the last step before it."""
RANKS = {
    **dict.fromkeys(JUDGES, 4),
    **dict.fromkeys(("stuck", "did_not_stay", "agent_died", "loop_error", "spins", "refused", "too_new"), 3),
    "expected": 2,
    "test": 1,
}
"""How much each kind of evidence says: damage, a VM or an agent lost, what an author expected, a table test."""
BROKEN = ("NameError", "AttributeError", "TypeError", "SyntaxError", "UnboundLocalError", "ImportError")


class Stale(ValueError):
    """A patch does not fit its source any more."""


def patched(source: str, patches: Sequence[Patch]) -> str:
    """The source with every patch applied; raises :class:`Stale`."""
    for patch in patches:
        lines = source.splitlines(keepends=True)
        node = _find(ast.parse(source), patch.function.split("."))
        if node is None:
            raise Stale(f"{patch.module}: there is no {patch.function}")
        start, end = node.lineno - 1, node.end_lineno
        body = "".join(lines[start:end])
        if body.count(patch.old) != 1:
            raise Stale(
                f"{patch.module}.{patch.function}: {patch.old!r} stands {body.count(patch.old)} times there"
            )
        source = "".join(lines[:start]) + body.replace(patch.old, patch.new) + "".join(lines[end:])
    ast.parse(source)
    return source


def _find(tree: ast.AST, names: list[str]) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and node.name == names[0] and len(names) > 1:
            return _find(node, names[1:])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and names == [node.name]:
            return node
    return None


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, patches: Sequence[Patch]) -> None:
        super().__init__(name, path)
        self._patches = patches

    def get_code(self, fullname: str) -> CodeType:
        source = patched(Path(self.path).read_text(), self._patches)
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, mutation: Mutation) -> None:
        self._patches: dict[str, list[Patch]] = {}
        for patch in mutation.patches:
            self._patches.setdefault(f"metastack.{patch.module}", []).append(patch)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        patches = self._patches.get(fullname)
        if patches is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, patches)
        return spec


def ask(catcher: str, root: Path, harmless: bool) -> list[str]:
    """What a catcher has to say; empty when all is well. ``scenario:NAME``, ``seed:N``, ``test:PATH``, …"""
    kind, _, name = catcher.partition(":")
    if kind == "test":
        import pytest

        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", str(root / name)])
        failed = [line for line in said.getvalue().splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed or [f"pytest ended with {code}"] if code else []
    from ..runs.play import play
    from ..script.schedule import schedule
    from ..script.script import parse

    if kind == "seed":
        found = play(schedule(int(name))).violations
    elif kind == "regression":
        found = play(parse((root / "sim" / "regressions" / f"{name}.script").read_text())).violations
    else:
        found = play(parse((root / "scenarios" / name / "script").read_text()), keep=True).violations
    # What a control changes on purpose is comfort: only the judges count then.
    return [line for line in found if not (harmless and " expected: " in line)]


def evidence(line: str, catcher: str) -> str:
    """The kind of one finding: the judge's name, ``expected``, or ``test``."""
    if catcher.startswith("test:"):
        return "test"
    return line.split(" ", 1)[1].split(":", 1)[0]


def main(name: str, root: Path, budget_s: float, catchers: list[str]) -> dict[str, object]:
    """The verdict on one mutation: the first catcher with evidence of the kind that its entry asks for.

    ``NAME#2`` takes only that patch of a group away, ``NAME~2`` all but that one.
    """
    name, which, number = re.fullmatch(r"([a-z0-9-]+)([#~]?)(\d*)", name).groups()  # type: ignore[union-attr]
    mutation = next(mutation for mutation in MUTATIONS if mutation.name == name)
    if which:
        chosen = int(number)
        kept = [patch for at, patch in enumerate(mutation.patches) if (at == chosen) is (which == "#")]
        mutation = replace(mutation, patches=tuple(kept))
    if not (mutation.gate or mutation.harmless):
        mutation = replace(mutation, patches=(*mutation.patches, *WITHOUT))
    sys.meta_path.insert(0, _Finder(mutation))
    wanted = 0 if mutation.harmless or which else RANKS[mutation.evidence]
    begun = time.process_time()  # what else runs on the machine does not count
    best: dict[str, object] = {"catcher": "", "says": "", "evidence": ""}
    asked, most = 0, -1
    for catcher in catchers:
        if time.process_time() - begun > budget_s:
            return {
                **best,
                "says": best["says"] or f"out of time after {asked} catchers",
                "asked": asked,
                "late": True,
            }
        asked += 1
        try:
            found = ask(catcher, root, mutation.harmless)
        except (Stale, FileNotFoundError) as error:
            return {"catcher": "", "says": str(error), "asked": asked, "broken": True, "evidence": ""}
        except RuntimeError as error:  # the loop spins: nothing that is safe and useful does that
            found = [f"0 spins: {type(error).__name__}: {error}"]
        if not found:
            continue
        found.sort(key=lambda line: -RANKS.get(evidence(line, catcher), 0))
        kind = evidence(found[0], catcher)
        rank = RANKS.get(kind, 0)
        if rank > most:
            broken = "agent_died: n" in found[0] and any(b in found[0] for b in BROKEN)
            best = {"catcher": catcher, "says": found[0], "evidence": kind, "broken": broken}
            most = rank
        if most >= wanted:
            break
    return {**best, "asked": asked}


if __name__ == "__main__":
    import msgspec

    verdict = main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
    sys.stdout.buffer.write(msgspec.json.encode(verdict) + b"\n")
