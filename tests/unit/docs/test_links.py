"""Every relative link of a page leads somewhere, and so does every path that the repository names.

Those are ``docs/…`` paths anywhere, and modules in docstrings and comments of the product.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
NAMED = re.compile(r"(?<![\w/.-])docs/[\w./-]*\w(?![\w-]*\*)")
MODULE = re.compile(r"`((?:[\w-]+/)+[\w-]+\.py)(?::[\w.]+)?`")
ROLE = re.compile(r":(mod|class|func|meth|data|attr|exc):`~?([\w.]+)`")
SOURCE = TOP / "src" / "metastack"
FOLDERS = "|".join(sorted(path.parent.name for path in SOURCE.glob("*/__init__.py")))
NAMED_MODULE = re.compile(rf"(?<![\w/.<{{-])(?:{FOLDERS})/[\w/]*\w(?![\w<{{-])(?:\.py)?")
NO_MODULES = {"scheduler/leader"}
"""A key of etcd."""
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


def module(path: Path) -> bool:
    return path.with_name(f"{path.name}.py").is_file() or path.is_dir()


def resolves(source: Path, role: str, name: str) -> bool:
    """Whether a reference of that file leads to a module, and to a word in it where it names an object."""
    plain = name.removeprefix("metastack.").lstrip(".").split(".")
    dots = len(name) - len(name.lstrip("."))
    if role != "mod" and not name.startswith("metastack.") and (dots != 1 or not plain[0].islower()):
        return True  # an object that the file itself knows
    top, at = source.parents[dots - 1] if dots else SOURCE, 0
    while at < len(plain) and module(top / plain[at]):
        top, at = top / plain[at], at + 1
    if at == len(plain) or role == "mod":
        return at == len(plain)
    inside = top / "__init__.py" if top.is_dir() else top.with_name(f"{top.name}.py")
    return at > 0 and re.search(rf"\b{plain[at]}\b", inside.read_text()) is not None


def dead_names(source: Path, text: str) -> list[str]:
    """The modules that docstrings and comments of a file name, and that do not exist."""
    dead = [found[0] for found in ROLE.finditer(text) if not resolves(source, found[1], found[2])]
    named = {found.removesuffix(".py") for found in NAMED_MODULE.findall(text)} - NO_MODULES
    return dead + sorted(name for name in named if not module(SOURCE / name))


def test_every_module_that_the_source_names_exists() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    dead = {str(path.relative_to(SOURCE)): dead_names(path, path.read_text()) for path in files}
    assert {name: found for name, found in dead.items() if found} == {}


def test_a_dead_module_is_seen() -> None:
    text = "(core/plan, core/gone) :mod:`.fences` :mod:`.gone` :func:`metastack.core.plan.Nowhere` :meth:`A.b`"
    dead = [":mod:`.gone`", ":func:`metastack.core.plan.Nowhere`", "core/gone"]
    assert dead_names(SOURCE / "core" / "protocol" / "claims.py", text) == dead


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One head\n[a](nowhere.md) [b](#one-head) [c](#other) [d](page.md#one-head)\n")
    assert broken(page) == ["nowhere.md", "#other"]
