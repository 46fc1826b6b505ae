"""The glossary: its places exist, and every counterexample that anything cites is defined there."""

from __future__ import annotations

import re

from named_code import PLACE, TOP, missing

GLOSSARY = TOP / "docs" / "reference" / "glossary.md"
CITED = re.compile(r"\bCE[0-9]+\b")


def test_every_place_that_it_names_exists() -> None:
    assert missing(GLOSSARY.read_text()) == []


def test_every_row_names_its_place() -> None:
    nouns, _, _ = GLOSSARY.read_text().partition("## Counterexamples")
    rows = [line for line in nouns.splitlines() if line.startswith("| **")]
    assert len(rows) > 30
    assert [row for row in rows if not PLACE.search(row)] == []


def test_a_row_has_two_sentences_at_most() -> None:
    rows = [line.split(" | ")[1] for line in GLOSSARY.read_text().splitlines() if line.startswith("| **")]
    assert [text for text in rows if len(re.findall(r"[.!?](?:\s|$)", text)) > 2] == []


def test_every_cited_counterexample_is_defined() -> None:
    files = [
        path
        for folder, kinds in (("src", (".py",)), ("docs", (".md",)), ("tests", (".py", ".md")))
        for path in (TOP / folder).rglob("*")
        if path.suffix in kinds
    ]
    cited = {number for path in files for number in CITED.findall(path.read_text())}
    defined = set(re.findall(r"^\| \*\*(CE[0-9]+)\*\* \|", GLOSSARY.read_text(), re.M))
    assert len(cited) >= 7
    assert cited - defined == set()


def test_a_place_that_is_gone_is_seen() -> None:
    text = "`core/plan.py:plan` `core/plan.py:nowhere` `core/nowhere.py`"
    assert missing(text) == ["core/nowhere.py", "core/plan.py:nowhere"]
