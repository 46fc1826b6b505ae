"""Docstrings and comments of the product are plain: no banned word, no sentence of more than 30 words."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "metastack"
FOLDERS = sorted(path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists())
BANNED = {
    r"anew": "again, or: new",
    r"rooms?": "capacity",
    r"wish(?:es|ed)?": "spec, or: request",
    r"answers? for": "owns",
    r"(?:is|are) said": "is reported",
    r"so many": "a number of",
}
MOST_WORDS = 30
CODE = re.compile(r"``[^`]+``|:\w+:`[^`]+`|`[^`\n]+`")
PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*[*-] |# )")
END = re.compile(r"[.!?:;](?:\s+|$)")


def docstrings(source: str) -> Iterator[str]:
    """Of the module, of classes, of functions, and the strings below attributes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str):
                yield inspect.cleandoc(text)


def comments(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")


def prose(text: str) -> Iterator[str]:
    """Paragraphs of a docstring, without tables and examples (lines that are indented or have columns)."""
    lines = [line for line in text.splitlines() if not re.match(r"\s{4}|=+ =|\S+ {2,}\S", line)]
    for paragraph in PARAGRAPH.split("\n".join(lines)):
        yield re.sub(r"\s+", " ", CODE.sub("CODE", paragraph)).strip()


def banned(text: str) -> list[str]:
    plain = CODE.sub("CODE", text)
    return [
        f"say {instead}: {text[:120]}"
        for word, instead in BANNED.items()
        if re.search(rf"\b{word}\b", plain, re.I)
    ]


def too_long(text: str) -> list[str]:
    sentences = (sentence for paragraph in prose(text) for sentence in END.split(paragraph))
    return [f"{count} words: {one}" for one in sentences if (count := len(one.split())) > MOST_WORDS]


def free_openers(text: str) -> list[str]:
    """Sentences that open with a clause instead of an actor."""
    sentences = (sentence for paragraph in prose(text) for sentence in END.split(paragraph))
    return [f"name the actor: {one}" for one in sentences if re.match(r"Who(?:m|ever)?\b", one)]


@pytest.mark.parametrize("folder", [*FOLDERS, "."])
def test_docstrings_and_comments_are_plain(folder: str) -> None:
    files = sorted((SOURCE / folder).glob("*.py") if folder == "." else (SOURCE / folder).rglob("*.py"))
    found = {}
    for path in files:
        source = path.read_text()
        faults = [
            fault for text in docstrings(source) for fault in banned(text) + too_long(text) + free_openers(text)
        ]
        faults += [fault for text in comments(source) for fault in banned(text)]
        if faults:
            found[str(path.relative_to(SOURCE))] = faults
    assert not found


def test_scenarios_are_told_plainly() -> None:
    pages = sorted((Path(__file__).parents[1] / "scenarios").glob("*/README.md"))
    assert pages
    assert not {page.parent.name: found for page in pages if (found := banned(page.read_text()))}


def test_each_fault_is_found() -> None:
    assert free_openers("A node waits. Who waits is asked.") == ["name the actor: Who waits is asked"]
    long = " ".join(["word"] * 31)
    assert [fault.split(":")[0] for fault in banned("Begin anew. `room` is code.")] == ["say again, or"]
    assert [fault.split(":")[0] for fault in too_long(f"{long}.\n\n    {long}\n\nShort; {long}.")] == [
        "31 words"
    ] * 2
