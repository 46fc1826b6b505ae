"""What the program tells people to type works as written: orders that need a reason are told with one."""

from __future__ import annotations

import re
from pathlib import Path

SOURCE = Path(__file__).parents[3] / "src" / "metastack"
NEED_A_REASON = ("node fence", "node unfence", "vm break-lock", "vm rebuild")
HINT = re.compile(rf"(?<!``)metastack ({'|'.join(NEED_A_REASON)}) (.*?(?:`|\Z|\n\n))", re.S)


def test_hinted_commands_include_a_needed_reason() -> None:
    found = [
        (path.name, hint[0])
        for path in sorted(SOURCE.rglob("*.py"))
        for hint in HINT.finditer(path.read_text())
    ]
    assert len(found) > 4
    assert [(name, text) for name, text in found if "--reason" not in text[:150]] == []
