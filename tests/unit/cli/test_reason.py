"""A reason is checked before a person is asked anything, and before etcd is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from metastack.cli.main import root, run


class Terminal:
    """A terminal at which nobody may be asked."""

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        raise AssertionError("a person was asked")


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setenv("METASTACK_ENDPOINTS", "unix:/nonexistent")


def asking() -> list[tuple[str, ...]]:
    """Every verb that asks and takes a reason, with its required arguments."""
    return sorted(_asking(get_command(root), None, ()))


def _asking(command: Any, above: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    ctx = command.make_context(words[-1] if words else "metastack", [], parent=above, resilient_parsing=True)
    if not hasattr(command, "list_commands"):
        params = {param.name: param for param in command.params}
        if {"yes", "reason"} <= params.keys():
            yield (*words, *("x" for param in params.values() if param.required and param.name != "reason"))
        return
    for name in command.list_commands(ctx):
        yield from _asking(command.resolve_command(ctx, [name])[1], ctx, (*words, name))


@pytest.mark.parametrize("words", asking(), ids=" ".join)
def test_a_bad_reason_is_refused_first(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--reason", "\x01"]) == 2
    assert "error: reason: is too long or not printable" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "cluster restore",
        "cluster storage adopt",
        "node fence x",
        "node unfence x",
        "vm break-lock x",
        "vm rebuild x --from-image",
    ],
)
def test_a_missing_reason_is_refused_first(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*line.split(), "--reason", ""]) == 2
    assert "needs a reason" in capsys.readouterr().err
