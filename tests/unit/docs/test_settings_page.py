"""docs/reference/settings.md is what the settings' own docstrings say, and every field has one."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from metastack.agent import settings as agent
from metastack.settings import StorageSettings

DOCS = Path(__file__).parents[3] / "docs" / "reference"


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "make_settings.py"))


def test_the_page_is_up_to_date(maker: dict[str, Any]) -> None:
    assert (DOCS / "settings.md").read_text() == maker["page"](), "run docs/reference/make_settings.py"


@pytest.mark.parametrize("field", [*agent.AgentSettings.__annotations__, *StorageSettings.__annotations__])
def test_every_setting_is_documented(maker: dict[str, Any], field: str) -> None:
    from metastack import settings as shared

    texts = maker["docstrings"](agent, "AgentSettings") | maker["docstrings"](shared, "StorageSettings")
    assert len(texts[field]) > 5
