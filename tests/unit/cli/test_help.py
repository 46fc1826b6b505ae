"""What the program says of itself at 80 columns, which is what most terminals have."""

from __future__ import annotations

import pytest

from metastack.cli.main import Root, run

NOUNS = sorted(Root.nouns)


@pytest.mark.parametrize("noun", NOUNS)
def test_no_line_about_a_command_is_cut_off(
    noun: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    assert run([noun, "--help"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    listed = said.partition("Commands:\n")[2].splitlines()
    assert [line for line in listed if line.endswith(("...", "…"))] == []
