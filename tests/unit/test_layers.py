"""The house's rules about who may import what, read off the syntax tree of every module.

``core <- ports <- {agent, commands, scheduler}``; adapters import core, ports and settings; cli and web import
commands; only composition roots join logic to adapters (docs/internals/design.md). The checker is tested
first, on snippets that break one rule each. An import inside a function or under TYPE_CHECKING counts like
any other.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

SOURCE: Final = Path(__file__).parents[2] / "src" / "metastack"

ADAPTERS: Final = ("store", "hypervisor", "storage", "network")
BASE: Final = ("core", "ports", "settings")

MAY_IMPORT: Final[dict[str, tuple[str, ...]]] = {
    "core": (),
    "ports": ("core",),
    "settings": ("core",),
    "contexts": ("core", "settings"),
    "store": BASE,
    "hypervisor": BASE,
    "storage": BASE,
    "network": BASE,
    "telemetry": ("core",),
    "agent": BASE,
    "commands": BASE,
    "scheduler": BASE,
    "cli": (*BASE, "commands", "contexts"),
    "web": (*BASE, "commands", "contexts"),
}
"""What each part may import besides itself. A part that is not here may not exist."""

ROOTS: Final[dict[str, str]] = {
    "agent.main": "joins the agent to its adapters, and to the log",
    "agent.cli": "the agent's own verbs, mounted by the CLI by name; starts agent.main",
    "scheduler.main": "joins the scheduler to the store, and to the log",
    "scheduler.cli": "the scheduler's own verbs, mounted by the CLI by name; starts scheduler.main",
    "cli.main": "mounts the verbs of dev and agent by name",
    "cli.session": "opens the store and the storage that a context names, at the first use",
    "cli.vm.console": "steps into the namespace of a one-machine cluster (lab.netns), at the first use",
    "cli.complete": "opens the store for live names, with a patience of its own and without a message",
    "lab": "tools that ship: the one-machine cluster: whole agents and servers; and the simulator",
}
"""Composition roots, a module or a whole part each, and why."""

ONLY_IN: Final = {
    "libvirt": "hypervisor",
    "libvirt_qemu": "hypervisor",
    "rbd": "storage",
    "rados": "storage",
} | {
    "aetcd": "store",
    "grpc": "store",
    "h2": "store",
}

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

THREADS: Final = ("hypervisor", "storage", "lab", "ports.threads")
"""Parts, or modules of others, that may start threads."""
LINES: Final = 600
LONG: Final[dict[str, int]] = {}
"""Files that are longer than they should be, at most so long. This list may only shrink."""


# --- the checker


def part_of(module: str) -> str:
    return module.split(".")[0]


def is_root(module: str) -> bool:
    return module in ROOTS or part_of(module) in ROOTS


def imports(tree: ast.AST, module: str, package: bool = False) -> Iterator[tuple[int, str]]:
    """Every import as (line, absolute name); of ours relative to metastack, with a leading dot.

    Names given to ``import_module`` and other strings that name a module of ours count too.
    """
    inside = ["metastack", *module.split(".")] if module else ["metastack"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = inside[: len(inside) - node.level + (1 if package else 0)]
                base = ".".join([*up, base] if base else up)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.split(".")
            if words[0] == "metastack" and len(words) > 1 and all(word.isidentifier() for word in words):
                yield node.lineno, node.value


def called(node: ast.Call) -> tuple[str, str]:
    """What a call calls, as (receiver, name)."""
    match node.func:
        case ast.Attribute(value=value, attr=name):
            return ast.unparse(value), name
        case ast.Name(id=name):
            return "", name
    return "", ""


def check(source: str, module: str, package: bool = False) -> list[str]:
    """Every rule that a module breaks, one line each; ``module`` is its name below metastack."""
    tree = ast.parse(source)
    part = part_of(module)
    wrong: list[str] = []
    if module and part not in MAY_IMPORT and part not in ROOTS:
        return [f"{module}: {part} is no part of the house (test_layers.MAY_IMPORT)"]
    for line, name in imports(tree, module, package):
        top = name.split(".")[0]
        if top == "metastack":
            other = name.split(".")[1] if "." in name else ""
            if not module or is_root(module) or other in ("", part, "__version__"):
                continue
            if other not in MAY_IMPORT[part]:
                wrong.append(f"{module}:{line}: {part} must not import {other}")
        elif part == "core":
            if any(name == i or name.startswith(i + ".") for i in IMPURE):
                wrong.append(f"{module}:{line}: core is pure, it must not import {top}")
            elif top not in sys.stdlib_module_names and top != "msgspec":
                wrong.append(f"{module}:{line}: core imports the standard library and msgspec, not {top}")
        elif top in ONLY_IN and part not in (ONLY_IN[top], "lab"):
            wrong.append(f"{module}:{line}: only {ONLY_IN[top]} may import {top}")
        elif part == "agent" and top in CLOCKS and module not in CLOCK_MODULES:
            wrong.append(f"{module}:{line}: in the agent only clock may import {top}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        receiver, name = called(node)
        bare = name == "ensure_future" or (name == "create_task" and "group" not in receiver.lower())
        if bare and module not in TASKS:
            wrong.append(f"{module}:{node.lineno}: a bare {name}: a TaskGroup owns every task")
        threaded = name in ("Thread", "ThreadPoolExecutor", "to_thread", "run_in_executor")
        if threaded and part not in THREADS and module not in THREADS:
            wrong.append(f"{module}:{node.lineno}: {name}: threads live in the libvirt and Ceph adapters")
    return wrong


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES: Final = sorted(SOURCE.rglob("*.py"))


# --- the house


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_module_keeps_its_layer(path: Path) -> None:
    wrong = check(path.read_text(), name_of(path), path.name == "__init__.py")
    assert not wrong, "\n".join(wrong)


def test_files_are_short() -> None:
    lines = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in FILES}
    long = [f"{name}: {n}" for name, n in sorted(lines.items()) if n > LONG.get(name, LINES)]
    assert not long, f"longer than {LINES} lines: " + ", ".join(long)
    done = [name for name in LONG if lines.get(name, 0) <= LINES]
    assert not done, "short enough now, take it off the list: " + ", ".join(done)


def test_every_exception_to_the_rules_is_still_needed() -> None:
    modules = {name_of(path): path for path in FILES}
    parts = {part_of(name) for name in modules}
    assert [root for root in ROOTS if root not in modules and root not in parts] == []
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
        ("core.plan", "from ..ports import Store", "core must not import ports"),
        ("core.plan", "from .. import ports", "core must not import ports"),
        ("ports", "from .agent.main import run", "ports must not import agent"),
        ("ports", "from . import store", "ports must not import store"),
        ("store.etcd.store", "from metastack.agent import session", "store must not import agent"),
        (
            "store.etcd.store",
            "from metastack.hypervisor.libvirt.hypervisor import X",
            "store must not import hypervisor",
        ),
        ("store.etcd", "from ..telemetry import logs", "store must not import telemetry"),
        ("agent.agent", "from ..store.etcd import EtcdStore", "agent must not import store"),
        ("agent.agent", "def f():\n    from ..hypervisor import libvirt", "agent must not import hypervisor"),
        ("agent.agent", "if TYPE_CHECKING:\n    from ..storage.ceph import C", "agent must not import storage"),
        ("agent.agent", "from ..commands import vms", "agent must not import commands"),
        ("agent.agent", "import time", "only clock may import time"),
        ("agent.agent", "from datetime import datetime", "only clock may import datetime"),
        ("agent.agent", "import_module('metastack.store.etcd.store')", "agent must not import store"),
        ("commands.vm.change", "import metastack.store.etcd.store", "commands must not import store"),
        ("commands.vm.change", "from metastack.cli import main", "commands must not import cli"),
        ("cli.vm", "from metastack.store.etcd.store import EtcdStore", "cli must not import store"),
        ("cli.vm", "from metastack.telemetry import logs", "cli must not import telemetry"),
        ("cli.vm", "from metastack.agent import settings", "cli must not import agent"),
        ("agent.main", "import libvirt", "only hypervisor may import libvirt"),
        ("storage.ceph.storage", "import grpc.aio", "only store may import grpc"),
        ("hypervisor.libvirt.hypervisor", "import rbd", "only storage may import rbd"),
        ("store.etcd.store", "from rados import Rados", "only storage may import rados"),
        ("network.linux", "from aetcd import rpc", "only store may import aetcd"),
        ("agent.main", "from h2.connection import H2Connection", "only store may import h2"),
        ("agent.agent", "asyncio.create_task(f())", "a bare create_task"),
        ("agent.agent", "asyncio.get_running_loop().create_task(f())", "a bare create_task"),
        ("agent.agent", "from asyncio import create_task\ncreate_task(f())", "a bare create_task"),
        ("store.etcd.store", "asyncio.ensure_future(f())", "a bare ensure_future"),
        ("agent.agent", "asyncio.to_thread(f)", "threads live in"),
        ("store.etcd.store", "loop.run_in_executor(None, f)", "threads live in"),
        ("ports.local_io", "threading.Thread(target=f)", "threads live in"),
        ("helpers.strings", "pass", "no part of the house"),
    ],
)
def test_the_checker_sees(module: str, source: str, says: str) -> None:
    assert any(says in line for line in check(source, module)), check(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.plan", "import re, enum, typing\nimport msgspec\nfrom .model import VmId"),
        ("agent.main", "from ..store.etcd import EtcdStore\nfrom ..telemetry import logs\nimport time"),
        ("agent.agent", "async with asyncio.TaskGroup() as group:\n    group.create_task(f())"),
        ("store.etcd.store", "import grpc\nfrom metastack.ports import Store\nfrom .watch import Watching"),
        ("cli.vm", "from metastack.commands import vms\nfrom metastack import __version__"),
        ("lab.dev.cluster", "from metastack.agent.main import run\nfrom metastack.cli import main"),
    ],
)
def test_the_checker_lets_through(module: str, source: str) -> None:
    assert check(source, module) == []


def test_a_packages_own_file_resolves_relative_imports_from_itself() -> None:
    assert check("from . import vms\nfrom .vms import create", "commands", package=True) == []
    assert check("from ..store import etcd", "commands", package=True) != []
