"""Every relative link of a page leads somewhere, and so does every `docs/…` path that the repository names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
NAMED = re.compile(r"(?<![\w/.-])docs/[\w./-]*\w(?![\w-]*\*)")
MODULE = re.compile(r"`((?:[\w-]+/)+[\w-]+\.py)(?::[\w.]+)?`")
FOREIGN = {"docs/interop/qcow2.txt"}
"""QEMU's own documentation."""
MADE_BY_MACHINES = ("bench/results/", "docs/lab/plots/")


def tracked() -> list[Path]:
    """Every text file of the repository that people write, also one that is not committed yet."""
    asked = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(asked, cwd=TOP, check=True, capture_output=True, text=True).stdout.splitlines()
    return [TOP / name for name in names if not name.startswith(MADE_BY_MACHINES) and (TOP / name).is_file()]


FILES = tracked()
PAGES = [path for path in FILES if path.suffix == ".md" and "tests/scenarios" not in path.as_posix()]


def anchors(page: Path) -> set[str]:
    """The anchors that a forge gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    found = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in found}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    missing = []
    for to, anchor in LINK.findall(page.read_text()):
        target = (page.parent / to) if to else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(f"{to}#{anchor}" if anchor else to)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_every_named_page_exists() -> None:
    missing = []
    for path in FILES:
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        missing += [
            (str(path.relative_to(TOP)), name)
            for name in sorted(set(NAMED.findall(text)) - FOREIGN)
            if not (TOP / name).exists()
        ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    named = set(MODULE.findall(page.read_text()))
    roots = (TOP / "src" / "metastack", TOP)
    assert [name for name in sorted(named) if not any((root / name).exists() for root in roots)] == []


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One head\n[a](nowhere.md) [b](#one-head) [c](#other) [d](page.md#one-head)\n")
    assert broken(page) == ["nowhere.md", "#other"]
