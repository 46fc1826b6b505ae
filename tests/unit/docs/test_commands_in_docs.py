"""Every command that the documentation shows exists: nouns, verbs, options, and enough arguments."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from metastack.cli.main import root

TOP = Path(__file__).parents[3]
PAGES = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").rglob("*.md"))]
FENCED = re.compile(r"^\s*```(\w*)\n(.*?)^\s*```", re.M | re.S)
INLINE = re.compile(r"`(metastack [^`]+)`")


def shown(page: Path) -> list[str]:
    """Command lines of a page: in shell blocks, and whole commands in running text."""
    text = page.read_text()
    found = []
    for language, block in FENCED.findall(text):
        if language in ("sh", "bash", "console"):
            found += [line.strip() for line in block.replace("\\\n", " ").splitlines()]
    found += INLINE.findall(FENCED.sub("", text))
    return [line for line in found if line.startswith(("metastack ", "deploy/"))]


def parse(line: str) -> None:
    """Parse a command line as the program would, down to its verb, without running it."""
    words = shlex.split(line, comments=True)[1:]
    assert "--install-completion" not in words, "parsing this one would do it"
    command: Any = get_command(root)
    context: Any = None
    while True:
        context = command.make_context(
            command.name or "metastack", list(words), parent=context, resilient_parsing=False
        )
        if not hasattr(command, "get_command"):
            return
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not rest:
            raise AssertionError(f"{line}: names no verb")
        _, command, words = command.resolve_command(context, rest)


EXAMPLES = [(page.name, line) for page in PAGES for line in shown(page)]
COMMANDS = sorted({line for _, line in EXAMPLES if line.startswith("metastack ")})
# Spoken of in general, not to be typed as they are.
GENERAL = {"metastack NOUN VERB …", "metastack sim", "metastack sim replay SEED --script"}


@pytest.mark.parametrize("line", [line for line in COMMANDS if line not in GENERAL])
def test_command_exists(line: str) -> None:
    parse(line)


@pytest.mark.parametrize(
    "script", sorted({line.split()[0] for _, line in EXAMPLES if line.startswith("deploy/")})
)
def test_script_exists(script: str) -> None:
    assert (TOP / script).stat().st_mode & 0o111, f"{script} is not there, or not executable"


@pytest.mark.parametrize(("page", "least"), [("README.md", 15), ("tutorial.md", 30), ("cli.md", 40)])
def test_pages_show_commands_at_all(page: str, least: int) -> None:
    assert len([line for name, line in EXAMPLES if name == page]) >= least


@pytest.mark.parametrize(
    "line",
    [
        "metastack vm fly web1",
        "metastack wm list",
        "metastack vm create web1",
        "metastack vm list --sideways",
        "metastack vm wait web1 --for ever",
        "metastack vm",
    ],
)
def test_the_checker_sees(line: str) -> None:
    with pytest.raises(Exception):  # noqa: B017 -- the parser has many ways to say no
        parse(line)
