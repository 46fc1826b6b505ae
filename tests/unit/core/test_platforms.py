"""The table of platforms: the same in code, in docs/guide/install.md and in the build."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from metastack.core.platforms import PLATFORMS, older, platform_of, system_of

TOP = Path(__file__).parents[3]


def test_the_guide_shows_the_table() -> None:
    page = (TOP / "docs/guide/install.md").read_text()
    for row in PLATFORMS:
        name = f"{row.name}, the main one" if row.main else row.name
        assert f"| {name} | {row.python} | {row.etcd} | {row.ceph} | {row.libvirt} | {row.qemu} |" in page


def test_every_python_of_a_platform_is_allowed_and_bundled() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    bundled = re.search(r'(?m)^pythons="([\d. ]+)"', (TOP / "deploy/wheelhouse").read_text())
    assert bundled is not None
    assert set(bundled[1].split()) == {row.python for row in PLATFORMS}
    assert {f"Programming Language :: Python :: {row.python}" for row in PLATFORMS} <= set(
        project["classifiers"]
    )


def test_one_platform_is_the_main_one() -> None:
    assert [row.system for row in PLATFORMS if row.main] == ["debian 13"]


@pytest.mark.parametrize(
    ("release", "system", "known"),
    [
        ({"ID": "debian", "VERSION_ID": "13"}, "debian 13", True),
        ({"ID": "debian"}, "debian", False),
        ({}, "linux", False),
    ],
)
def test_system_of_a_release(release: dict[str, str], system: str, known: bool) -> None:
    assert system_of(release) == system
    assert (platform_of(system) is not None) is known


@pytest.mark.parametrize(
    ("version", "least", "answer"),
    [
        ("7.2.15", "7.2", False),
        ("7.1.99", "7.2", True),
        ("10.0.0", "7.2", False),
        ("9.0.0", "9.0", False),
        ("", "9.0", False),
        ("unknown", "9.0", False),
    ],
)
def test_older_versions(version: str, least: str, answer: bool) -> None:
    assert older(version, least) is answer
