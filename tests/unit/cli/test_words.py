"""Help texts, errors, hints and reasons are plain technical English (DESIGN: the style of prose)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from metastack.cli.main import root

SOURCE = Path(__file__).parents[3] / "src" / "metastack"
PLACES = (
    *("cli", "commands", "core", "agent", "hypervisor", "network", "ports", "scheduler", "storage", "store"),
    *("telemetry", "contexts.py", "settings.py", "lab/dev", "lab/netns.py", "lab/sim/cli.py"),
)
NO_PROSE = ("agent/report/machine.py", "lab/dev/ceph_conf.py", "lab/dev/host.py")
"""Their long texts are names of processor flags and files of settings."""
LONGEST = 30
"""Words of one sentence."""

NOT_SAID = (
    r"anew|afresh|once more|room|wish(?:ed|es)?|answers? for|is said|so many|minded|whose it is|lets? go",
    r"whoever|whatever|somebody|nobody|anybody|everybody|is real|is so already|looked at|look at it|at it$",
    r"knows nothing|nothing is known|stands? in (?:the|its) way|gives? back|gave back|given back|strays?",
    r"as it wants|goes by|go by|mends?|shut out|shuts|shut \S+ out|the release before|an? hand|at work|go on",
    r"made? (?:it|them)|goes on|goes with|no more|any more|fine|hurts?|to have a|of its kind is",
)
BANNED = re.compile(rf"(?i)\b(?:{'|'.join(NOT_SAID)})\b")
FREE = re.compile(r"(?:[Ww]ho|[Ww]hat|Which|Whose|[Ww]hoever|[Ww]hatever|How)\b[^?]*$")
"""A sentence that opens with a clause instead of an actor; a question may."""


def helps() -> Iterator[tuple[str, str]]:
    """Every text of ``--help``, with the command that has it."""
    yield from _helps(get_command(root), None, "metastack")


def _helps(command: Any, above: Any, name: str) -> Iterator[tuple[str, str]]:
    ctx = command.make_context(name, [], parent=above, resilient_parsing=True)
    yield from ((name, text) for text in (command.help, command.epilog, command.short_help) if text)
    yield from ((f"{name} {one.name}", one.help) for one in command.params if getattr(one, "help", None))
    for lazy in getattr(command, "nouns", {}).values():
        yield name, lazy.help
    for verb in command.list_commands(ctx) if hasattr(command, "list_commands") else ():
        yield from _helps(command.resolve_command(ctx, [verb])[1], ctx, f"{name} {verb}")


def messages() -> Iterator[tuple[str, str]]:
    """Every text of four words or more in the source that is no docstring; a value in it reads ``{}``."""
    for place in PLACES:
        there = SOURCE / place
        for path in sorted(there.rglob("*.py")) if there.is_dir() else (there,):
            if str(path.relative_to(SOURCE)) in NO_PROSE:
                continue
            for line, text in _texts(ast.parse(path.read_text())):
                if len(text.split()) >= 4:
                    yield f"{path.relative_to(SOURCE)}:{line}", text


def settings() -> Iterator[tuple[str, str]]:
    """What each setting means, as ``config show -o wide`` and the reference print it."""
    for name, kind in (
        ("core/model/config.py", "ClusterConfig"),
        ("agent/settings.py", "AgentSettings"),
        ("settings.py", "StorageSettings"),
    ):
        tree = ast.parse((SOURCE / name).read_text())
        [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind]
        for node in found.body[1:]:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                yield f"{name}:{node.lineno}", str(node.value.value)


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            skipped.update(id(part) for part in node.values if isinstance(part, ast.Constant))
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def wrong(text: str) -> list[str]:
    """What a reader would stumble over."""
    found = [f"says {one[0]!r}" for one in BANNED.finditer(text)]
    for sentence in re.split(r"(?<=[.?!;])\s+|\n\n", text):
        if len(sentence.split()) > LONGEST:
            found.append(f"is a sentence of {len(sentence.split())} words")
        if FREE.match(sentence.strip()) and len(sentence.split()) > 2:
            found.append("opens with a free clause")
    return found


def test_texts_are_plain_technical_english() -> None:
    texts = [*helps(), *messages(), *settings()]
    assert len(texts) > 500
    assert [f"{where}: {', '.join(why)}: {text}" for where, text in texts if (why := wrong(text))] == []
