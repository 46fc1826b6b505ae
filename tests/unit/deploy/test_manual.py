"""Man pages and completions: every command has its page, roff reads them, and a shell completes with them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOP = Path(__file__).parents[3]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_manual", TOP / "deploy/make_manual.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


manual = load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manual")
    manual.write(folder)
    return folder


def test_every_command_has_a_page(folder: Path) -> None:
    pages = {path.stem for path in (folder / "man1").iterdir()}
    assert pages == {"-".join(("metastack", *words)) for words, _ in manual.commands()}
    assert {"metastack", "metastack-vm-create", "metastack-agent-run", "metastack-version"} <= pages


def test_pages_name_every_option(folder: Path) -> None:
    missing = []
    for words, command in manual.commands():
        text = (folder / "man1" / f"{'-'.join(('metastack', *words))}.1").read_text().replace("\\-", "-")
        options = [option for param in command.params for option in param.opts if option.startswith("--")]
        missing += [(words, option) for option in options if option not in text and option != "--help"]
    assert missing == []


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not here")
def test_roff_finds_no_fault(folder: Path) -> None:
    pages = sorted(str(path) for path in (folder / "man1").iterdir())
    done = subprocess.run(
        ["groff", "-ww", "-man", "-Tutf8", "-z", *pages], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""


def test_two_runs_write_the_same(folder: Path, tmp_path: Path) -> None:
    manual.write(tmp_path)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert [path for path in files if (folder / path).read_bytes() != (tmp_path / path).read_bytes()] == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [("metastack vm cre", "create"), ("metastack clus", "cluster"), ("metastack ver", "version")],
)
def test_bash_completes(folder: Path, line: str, expected: str) -> None:
    words = line.split()
    code = f"""
    source {folder}/completions/bash/metastack
    COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}
    _metastack_completion {Path(sys.executable).parent}/metastack
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert expected in done.stdout.split()


@pytest.mark.parametrize("name", ["bash/metastack", "zsh/_metastack", "fish/metastack.fish"])
def test_each_shell_has_its_completion(folder: Path, name: str) -> None:
    assert "_METASTACK_COMPLETE" in (folder / "completions" / name).read_text()
