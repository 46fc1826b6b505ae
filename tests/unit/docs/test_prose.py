"""The pages are plain: no word of the old private English, no sentence of more than 30 words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
PAGES = [
    *(TOP / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "proof/README.md")),
    *sorted((TOP / "docs").rglob("*.md")),
]
BANNED = {
    r"anew": "again, or: new",
    r"rooms?": "capacity",
    r"wish(?:es|ed)?": "spec, or: request",
    r"answers? for": "owns",
    r"(?:is|are) said": "is reported",
    r"so many": "a number of",
}
MOST_WORDS = 30
CODE = re.compile(r"^ *```.*?^ *```", re.M | re.S)
INLINE = re.compile(r"``[^`]+``|`[^`\n]+`")
FIGURES = re.compile(r"<!-- figures of .*?<!-- end of figures -->", re.S)
"""Made from a record by bench/placement/pages.py."""
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
END = re.compile(r"[.!?:;][*)\"]*(?:\s+|$)")


def blocks(text: str) -> Iterator[str]:
    """Paragraphs, items and cells of tables as plain text; a piece of code counts as one word."""
    text = LINK.sub(r"\1", INLINE.sub("CODE", CODE.sub("\n\n", FIGURES.sub("", text))))
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        start = re.match(r"\s*([-*] |\d+\. |#+ |\||$)", line)
        if start and lines:
            yield " ".join(lines)
            lines = []
        if line.lstrip().startswith("|"):
            yield from (cell.strip() for cell in line.strip().strip("|").split(" | "))
        elif line.strip():
            lines.append(re.sub(r"^\s*([-*] |\d+\. |#+ )", "", line).strip())


def faults(text: str) -> list[str]:
    """Banned words with what to say, and sentences that are too long."""
    found = []
    for block in blocks(text):
        for word, instead in BANNED.items():
            if re.search(rf"\b{word}\b", block, re.I):
                found.append(f"say {instead}: {block[:160]}")
        for sentence in END.split(block):
            words = re.findall(r"\w[\w'’.-]*", sentence)
            if len(words) > MOST_WORDS:
                found.append(f"{len(words)} words: {sentence}")
            if re.match(r"\W*(?:Who|Whoever|Whatever)\b", sentence) and not block.endswith("?"):
                found.append(f"name the actor: {sentence}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_the_page_is_plain(page: Path) -> None:
    assert faults(page.read_text()) == []


def test_what_it_looks_for_is_seen() -> None:
    long = " ".join(["word"] * 31)
    text = f"Begin anew.\n\n- {long}.\n\n| a | the wish |\n\nWho waits.\n"
    text += f"```\nroom\n```\n`room` is code. {long[:-5]}.\n"
    told = ["say again, or", "31 words", "say spec, or", "name the actor"]
    assert [fault.split(":")[0] for fault in faults(text)] == told
