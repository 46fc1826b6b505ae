"""Write the man pages and the shell completions from the command line itself.

Usage: python deploy/make_manual.py FOLDER (deploy/wheelhouse runs it; tests/unit/deploy checks what it writes).
Writes FOLDER/man1/*.1, a page for the program, each noun and each verb, and FOLDER/completions/{bash,zsh,fish}.
Two runs write the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from typer import Context
from typer._completion_shared import get_completion_script
from typer.main import get_command

from metastack import __version__
from metastack.cli.frame import Root, _common_params
from metastack.cli.main import root

COMPLETIONS: Final = {"bash": "metastack", "zsh": "_metastack", "fish": "metastack.fish"}
"""The file's name of each shell, as the shells look for it."""
EXIT_STATUS: Final = {
    0: "Done.",
    1: "Failed.",
    2: "Wrong usage.",
    3: "An object was not found.",
    4: "Conflict with another change or with the present state.",
    5: "The time was over.",
    6: "Denied.",
    7: "etcd was not reached.",
    130: "Interrupted.",
    141: "The reader of the output has gone.",
}


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words, parents first."""
    program: Any = get_command(root)
    yield (), program
    for name in Root.nouns:
        context = program.make_context("metastack", [name], resilient_parsing=True)
        _, found, _ = program.resolve_command(context, [name])
        yield from _below((name,), found)


def _below(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, child in sorted(getattr(command, "commands", {}).items()):
        if not child.hidden:
            yield from _below((*words, name), child)


def escape(text: str) -> str:
    """Text as roff shows it: plain ASCII, no escapes, no request at the beginning of a line."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    # A long choice may be broken at its bars.
    text = text.replace("|", "|\\:")
    text = "".join(sign if sign.isascii() else f"\\[u{ord(sign):04X}]" for sign in text)
    return "\\&" + text if text.startswith((".", "\\(aq")) else text


def page(words: tuple[str, ...], command: Any) -> str:
    """The man page of one command."""
    name = "-".join(("metastack", *words))
    context = Context(command, info_name=" ".join(("metastack", *words)), resilient_parsing=True)
    first, *rest = (" ".join(part.split()) for part in (command.help or "").strip().split("\n\n"))
    lines = [
        f'.TH {escape(name.upper())} 1 "" "MetaStack {__version__}" "MetaStack"',
        # Flush left: long words would stretch the lines around them.
        ".ad l",
        ".SH NAME",
        f"{escape(name)} \\- {escape(first.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {escape(context.info_name)}",
        escape(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        escape(first),
    ]
    for paragraph in rest:
        lines += [".PP", escape(paragraph)]
    shown = [(param.name, param.get_help_record(context)) for param in command.params]
    common = {param.name for param in _common_params()}
    lines += _list("OPTIONS", [record for name, record in shown if record and name not in common])
    lines += _list("COMMON OPTIONS", [record for name, record in shown if record and name in common])
    children = [(name, child) for name, child in getattr(command, "commands", {}).items() if not child.hidden]
    lines += _list(
        "COMMANDS", [("-".join(("metastack", *words, name)) + "(1)", brief(child)) for name, child in children]
    )
    if words:
        lines += [".SH SEE ALSO", f".BR {escape('-'.join(('metastack', *words[:-1])))} (1)"]
    else:
        lines += _list("EXIT STATUS", [(str(status), meaning) for status, meaning in EXIT_STATUS.items()])
    return "\n".join(lines) + "\n"


def brief(command: Any) -> str:
    """The first paragraph of its help."""
    return " ".join((command.help or "").strip().partition("\n\n")[0].split())


def _list(title: str, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A section of terms and their meanings; nothing without any."""
    lines = [f".SH {title}"] if pairs else []
    for term, meaning in pairs:
        lines += [".TP", f".B {escape(term)}", escape(" ".join(meaning.split())) or "\\&"]
    return lines


def write(folder: Path) -> None:
    """All pages and completions."""
    (folder / "man1").mkdir(parents=True, exist_ok=True)
    (folder / "completions").mkdir(exist_ok=True)
    for words, command in commands():
        (folder / "man1" / f"{'-'.join(('metastack', *words))}.1").write_text(page(words, command))
    for shell, name in COMPLETIONS.items():
        where = folder / "completions" / shell
        where.mkdir(exist_ok=True)
        script = get_completion_script(prog_name="metastack", complete_var="_METASTACK_COMPLETE", shell=shell)
        (where / name).write_text(script + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
