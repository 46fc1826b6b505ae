"""deploy/ansible, its page of variables and its guide name the same things."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parents[3]
ANSIBLE = HERE / "deploy" / "ansible"
SECRET = re.compile(r"ceph_admin_keyring\)|compute_token\.stdout|'token', 'create'|content:.*ceph_made")
PLAYBOOKS = {path.name for path in ANSIBLE.glob("*.yml")}


@pytest.fixture(scope="module")
def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_ansible", HERE / "docs/reference/make_ansible.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def known(made: ModuleType) -> set[str]:
    return {variable.name for role in made.ORDER for variable in made.variables(role)}


def test_the_page_is_up_to_date(made: ModuleType) -> None:
    assert (HERE / "docs/reference/ansible.md").read_text(encoding="utf-8") == made.page()


def test_every_role_is_on_the_page(made: ModuleType) -> None:
    assert set(made.ORDER) == {path.name for path in (ANSIBLE / "roles").iterdir()}


def test_every_variable_says_what_it_means(made: ModuleType) -> None:
    assert [v.name for role in made.ORDER for v in made.variables(role) if not v.comment.endswith(".")] == []


@pytest.mark.parametrize("example", sorted((ANSIBLE / "inventory").iterdir()), ids=lambda path: path.stem)
def test_an_inventory_sets_variables_that_exist(made: ModuleType, example: Path) -> None:
    roles = "|".join(made.ORDER)
    used = set(re.findall(rf"\b((?:{roles})_\w+):", example.read_text(encoding="utf-8")))
    assert used
    assert used - known(made) == set()


def test_the_guide_names_every_playbook() -> None:
    guide = (HERE / "docs/guide/ansible.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\b([a-z-]+[.]yml)\b", guide)) & PLAYBOOKS == PLAYBOOKS


def test_the_guide_sets_variables_that_exist(made: ModuleType) -> None:
    guide = (HERE / "docs/guide/ansible.md").read_text(encoding="utf-8")
    roles = "|".join(made.ORDER)
    named = set(re.findall(rf"`((?:{roles})_\w+)`", guide))
    assert named
    assert named - known(made) == set()


def test_what_reads_a_secret_logs_nothing() -> None:
    """A task with a keyring or a token on its input or output."""
    found = []
    for path in (ANSIBLE / "roles").rglob("*.yml"):
        for task in re.split(r"\n(?=\s*- name: )", path.read_text(encoding="utf-8")):
            if SECRET.search(task) and "no_log: true" not in task:
                found.append(f"{path}: {task.strip().splitlines()[0]}")
    assert found == []
