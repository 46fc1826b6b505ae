"""docs/reference/errors.md has the exit status of every code, and every family of errors."""

from __future__ import annotations

import re
from pathlib import Path

from metastack.cli.session import EXIT
from metastack.commands.problem import Code
from metastack.ports import errors

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "errors.md").read_text()


def test_every_code_has_its_exit_status() -> None:
    told = {code: int(status) for status, code in re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, re.M)}
    assert told.pop("interrupted") == 130
    assert told == {code.value: EXIT[code.value] for code in Code}


def test_the_families_exist() -> None:
    families = re.findall(r"^\| `([A-Z]\w+)` \|", PAGE, re.M)
    assert len(families) == 4
    assert [name for name in families if not hasattr(errors, name)] == []
