"""Files that the pages show are read by the program as written."""

from __future__ import annotations

import re
from pathlib import Path

from metastack import contexts
from metastack.agent import settings

DOCS = Path(__file__).parents[3] / "docs"


def shown(page: str, holds: str, to: Path) -> Path:
    """The TOML block of a page that holds a text, as a file."""
    blocks = re.findall(r"^```toml\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)
    (block,) = [block for block in blocks if holds in block]
    to.write_text(block)
    return to


def test_the_context_of_the_install_page_is_read(tmp_path: Path) -> None:
    page = (DOCS / "guide/install.md").read_text()
    text = page.split("cat >/etc/metastack/pki-serve.toml <<END\n", 1)[1].split("\nEND\n", 1)[0]
    (tmp_path / "config.toml").write_text(text)
    found = contexts.load(tmp_path / "config.toml")
    context = found.contexts[found.current]
    assert len(context.store.endpoints) == 3
    assert context.storage is not None
    assert context.storage.kind == "ceph"


def test_the_agent_settings_of_the_settings_page_are_read(tmp_path: Path) -> None:
    found = settings.load(shown("reference/settings.md", 'name = "n1"', tmp_path / "agent.toml"), environ={})
    assert found.storage_addresses == ("10.1.0.21",)
