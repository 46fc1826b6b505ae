"""The house's rules that import-linter cannot state (its contracts, in pyproject.toml, are the layers).

Purity of core, clocks, tasks, threads, modules named in strings, length and docstrings: read off the syntax
tree of every module. The checker is tested first, on snippets that break one rule each.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import grimp
import pytest

SOURCE: Final = Path(__file__).parents[2] / "src" / "metastack"

BY_NAME: Final[dict[str, tuple[str, ...]]] = {
    "cli.main": ("agent.cli", "scheduler.cli", "lab.dev.cli", "lab.sim.cli"),
    "cli.session": ("lab.netns",),
}
"""What a module outside the lab may load of another part by its name: import-linter does not see strings."""

IMPURE: Final = frozenset(
    {
        "asyncio",
        "concurrent",
        "datetime",
        "io",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "random",
        "secrets",
    }
    | {"select", "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading"}
    | {"time", "urllib.request", "uuid"}
)

CLOCKS: Final = frozenset({"time", "datetime", "random", "secrets", "uuid"})
CLOCK_MODULES: Final = frozenset({"agent.clock", "agent.main"})
"""In the agent only these know clocks and randomness: the simulator runs the rest on a virtual one."""

TASKS: Final[dict[str, str]] = {
    "cli.vm.console": "the ends of one console; none may end the others by raising; all awaited in its finally",
    "hypervisor.libvirt.connection": "the keeper of the connection, owned by open() and close()",
    "hypervisor.twin.daemon": "models a libvirt call that outlives the await that started it",
    "lab.sim.engine.loop": "starts the main task of a simulated process; bury() ends whatever is left",
    "lab.sim.engine.wire": "a request on its way, which outlives its sender; bury() ends what is left",
    "storage.twin": "models a storage call that outlives the await that started it",
    "store.etcd.watch": "one outstanding read of the stream, kept across timeouts, ended by close()",
}
"""Modules that may start a task without a TaskGroup, and why."""

THREADS: Final = ("hypervisor", "storage", "lab", "ports.threads", "telemetry.journal")
"""Parts, or modules of others, that may start threads. The journal's backlog outlives every event loop."""
LINES: Final = 600


# --- the checker


def part_of(module: str) -> str:
    return module.split(".")[0]


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every import of what is not ours, as (line, absolute name)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def named(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string that names a module of ours, as (line, name below metastack)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.split(".")
            if words[0] == "metastack" and len(words) > 1 and all(word.isidentifier() for word in words):
                yield node.lineno, ".".join(words[1:])


def called(node: ast.Call) -> tuple[str, str]:
    """What a call calls, as (receiver, name)."""
    match node.func:
        case ast.Attribute(value=value, attr=name):
            return ast.unparse(value), name
        case ast.Name(id=name):
            return "", name
    return "", ""


def check(source: str, module: str) -> list[str]:
    """Every rule that a module breaks, one line each; ``module`` is its name below metastack."""
    tree = ast.parse(source)
    part = part_of(module)
    wrong: list[str] = []
    for line, name in imported(tree):
        top = name.split(".")[0]
        if part == "core":
            if any(name == i or name.startswith(i + ".") for i in IMPURE):
                wrong.append(f"{module}:{line}: core is pure, it must not import {top}")
            elif top not in sys.stdlib_module_names and top != "msgspec":
                wrong.append(f"{module}:{line}: core imports the standard library and msgspec, not {top}")
        elif part == "agent" and top in CLOCKS and module not in CLOCK_MODULES:
            wrong.append(f"{module}:{line}: in the agent only clock may import {top}")
    for line, name in named(tree):
        if part not in (part_of(name), "lab") and name not in BY_NAME.get(module, ()):
            wrong.append(f"{module}:{line}: {part} must not name {name}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        receiver, name = called(node)
        bare = name == "ensure_future" or (name == "create_task" and "group" not in receiver.lower())
        if bare and module not in TASKS:
            wrong.append(f"{module}:{node.lineno}: a bare {name}: a TaskGroup owns every task")
        threaded = name in ("Thread", "ThreadPoolExecutor", "to_thread", "run_in_executor")
        if threaded and part not in THREADS and module not in THREADS:
            wrong.append(f"{module}:{node.lineno}: {name}: threads live in adapters (libvirt, Ceph, journal)")
    return wrong


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES: Final = sorted(SOURCE.rglob("*.py"))


# --- the house


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_module_keeps_the_rules(path: Path) -> None:
    wrong = check(path.read_text(), name_of(path))
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_through_others() -> None:
    graph = grimp.build_graph("metastack", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # import-linter looks at siblings only; this raises CycleError


def test_files_are_short() -> None:
    lines = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in FILES}
    assert [f"{name}: {n}" for name, n in sorted(lines.items()) if n > LINES] == []


def test_every_exception_to_the_rules_is_still_needed() -> None:
    modules = {name_of(path): path for path in FILES}
    names = {module: {name for _, name in named(ast.parse(modules[module].read_text()))} for module in BY_NAME}
    assert [(module, name) for module, by in BY_NAME.items() for name in by if name not in names[module]] == []
    assert [
        name
        for name in TASKS
        if name not in modules
        or not any(word in modules[name].read_text() for word in ("create_task", "ensure_future"))
    ] == []


def test_modules_open_with_what_they_own() -> None:
    bare = [
        name_of(path)
        for path in FILES
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert bare == []


def test_no_names_that_say_nothing() -> None:
    words = ("util", "manager", "helper", "common", "misc")
    assert [name_of(path) for path in FILES if any(word in path.stem for word in words)] == []


# --- the checker, seen red


@pytest.mark.parametrize(
    ("module", "source", "says"),
    [
        ("core.plan", "import asyncio", "core is pure"),
        ("core.plan", "from time import monotonic", "core is pure"),
        ("core.plan", "def f():\n    import random", "core is pure"),
        ("core.plan", "import os.path", "core is pure"),
        ("core.plan", "import structlog", "core imports the standard library"),
        ("core.plan", "from metastack.ports import Store", "core imports the standard library"),
        ("agent.agent", "import time", "only clock may import time"),
        ("agent.agent", "from datetime import datetime", "only clock may import datetime"),
        ("agent.agent", "import_module('metastack.store.etcd.store')", "agent must not name store"),
        ("cli.main", "Lazy('metastack.lab.netns')", "cli must not name lab.netns"),
        ("agent.agent", "asyncio.create_task(f())", "a bare create_task"),
        ("agent.agent", "asyncio.get_running_loop().create_task(f())", "a bare create_task"),
        ("agent.agent", "from asyncio import create_task\ncreate_task(f())", "a bare create_task"),
        ("store.etcd.store", "asyncio.ensure_future(f())", "a bare ensure_future"),
        ("agent.agent", "asyncio.to_thread(f)", "threads live in"),
        ("store.etcd.store", "loop.run_in_executor(None, f)", "threads live in"),
        ("ports.local_io", "threading.Thread(target=f)", "threads live in"),
    ],
)
def test_the_checker_sees(module: str, source: str, says: str) -> None:
    assert any(says in line for line in check(source, module)), check(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.plan", "import re, enum, typing\nimport msgspec\nfrom .model import VmId"),
        ("agent.main", "import time"),
        ("agent.agent", "async with asyncio.TaskGroup() as group:\n    group.create_task(f())"),
        ("cli.main", "Lazy('metastack.lab.dev.cli')"),
    ],
)
def test_the_checker_lets_through(module: str, source: str) -> None:
    assert check(source, module) == []
