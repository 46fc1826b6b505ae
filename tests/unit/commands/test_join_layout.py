"""The files of a joined node: whole after a crash at any of them, and the agent reads them."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from metastack.agent.settings import load
from metastack.commands.joining import layout as layouts
from metastack.commands.joining.asking import Joined
from metastack.commands.joining.layout import NodeLayout
from metastack.core.model import JoinSettings
from metastack.pki.authority import make_authority, sign
from metastack.pki.files import certificate_pem
from metastack.pki.refusal import Refusal, Why
from metastack.pki.subject import SubjectKind, subject

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
CA = make_authority("prod", NOW)
ENDPOINTS = ("https://10.0.0.1:2379",)
CEPH = JoinSettings(
    root="/metastack",
    storage_kind="ceph",
    pool="vms",
    monitors=("10.1.0.1:6789",),
    user="metastack-node-n1-aa",
    storage_addresses=("10.1.0.9",),
)


def joined(layout: NodeLayout, settings: JoinSettings = CEPH, key: str = "c2VjcmV0") -> Joined:
    certificate = sign(CA, layout.key().public_key(), subject(SubjectKind.NODE, "n1"), NOW, hosts=["n1"])
    return Joined(
        node="n1",
        user="node.n1",
        certificate=certificate_pem(certificate),
        ca=CA.certificate_pem,
        storage_key=key,
        settings=settings,
    )


def test_the_agent_reads_what_the_join_wrote(tmp_path: Path) -> None:
    layout = NodeLayout(tmp_path, "n1")
    layout.write(joined(layout), ENDPOINTS, {})
    found = load(tmp_path / "etc/metastack/agent.toml", {})
    assert (found.name, found.endpoints, found.storage_addresses) == ("n1", ENDPOINTS, ("10.1.0.9",))
    assert (found.storage.user, found.storage.monitors) == (CEPH.user, CEPH.monitors)
    keyring = tmp_path / "etc/metastack/ceph.keyring"
    assert stat.S_IMODE(keyring.stat().st_mode) == 0o600
    assert keyring.read_text() == "[client.metastack-node-n1-aa]\n\tkey = c2VjcmV0\n"


def test_a_shared_folder_needs_no_keyring(tmp_path: Path) -> None:
    layout = NodeLayout(tmp_path, "n1")
    shared = JoinSettings(root="/other", storage_kind="file", directory="/srv/vms")
    layout.write(joined(layout, shared, ""), ENDPOINTS, {})
    found = load(tmp_path / "etc/metastack/agent.toml", {})
    assert (found.root, found.storage.kind, found.storage.directory) == ("/other", "file", "/srv/vms")
    assert not (tmp_path / "etc/metastack/ceph.keyring").exists()


class Crash(Exception):
    """The host lost power."""


@pytest.mark.parametrize("at", range(5))
def test_a_crash_at_any_file_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    layout, count, real = NodeLayout(tmp_path, "n1"), 0, layouts.write

    def write(path: Path, data: bytes, mode: int) -> Any:
        nonlocal count
        if count == at:
            raise Crash
        count += 1
        return real(path, data, mode)

    monkeypatch.setattr(layouts, "write", write)
    with pytest.raises(Crash):
        layout.write(joined(layout), ENDPOINTS, {})
    # The settings come last: no agent starts with half of what it needs.
    assert not (tmp_path / "etc/metastack/agent.toml").exists()
    monkeypatch.setattr(layouts, "write", real)
    key = layout.key_file.read_bytes() if at else b""
    layout.write(joined(layout), ENDPOINTS, {})
    assert not at or layout.key_file.read_bytes() == key
    names = {path.name for path in (tmp_path / "etc/metastack").rglob("*") if path.is_file()}
    assert names == {"agent.toml", "ceph.keyring", "ca.crt", "node.n1.crt", "node.n1.key"}


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    layout = NodeLayout(tmp_path, "n1")
    layout.key()
    layout.key_file.chmod(0o644)
    with pytest.raises(Refusal) as refused:
        layout.key()
    assert refused.value.why is Why.OPEN_TO_OTHERS
