"""``metastack pki``: files, exit statuses, and what is printed."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from metastack.cli.main import run


@pytest.fixture
def ca(tmp_path: Path) -> list[str]:
    folder = ["--dir", str(tmp_path / "ca")]
    assert run(["pki", "init", *folder]) == 0
    return folder


def test_a_certificate_goes_through_its_whole_life(
    tmp_path: Path, ca: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "n1"
    assert run(["pki", "issue", "node", "n1", "--host", "n1", "--out", str(out), *ca]) == 0
    before = (out / "node.n1.key").read_bytes()
    assert run(["pki", "renew", str(out / "node.n1.crt"), *ca]) == 0
    assert (out / "node.n1.key").read_bytes() != before
    assert stat.S_IMODE((out / "node.n1.key").stat().st_mode) == 0o600
    assert run(["pki", "revoke", "node.n1", "--reason", "sold", "--yes", *ca]) == 0
    capsys.readouterr()
    assert run(["pki", "list", "-o", "json", *ca]) == 0
    assert [one["state"] for one in json.loads(capsys.readouterr().out)] == ["revoked", "revoked"]


def test_a_request_is_signed_without_a_key(tmp_path: Path, ca: list[str]) -> None:
    from metastack.pki.authority import make_request, new_key
    from metastack.pki.subject import SubjectKind, subject

    (tmp_path / "n1.csr").write_bytes(make_request(subject(SubjectKind.NODE, "n1"), new_key()))
    line = ["--host", "n1", "--request", str(tmp_path / "n1.csr"), "--out", str(tmp_path / "out")]
    assert run(["pki", "issue", "node", "n1", *line, *ca]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ca.crt", "node.n1.crt"]
    assert run(["pki", "issue", "node", "n2", *line, *ca]) == 1


def test_no_key_is_printed(tmp_path: Path, ca: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for output in ("json", "yaml", "wide", "name"):
        run(["pki", "issue", "operator", "anna", "--role", "viewer", "-o", output, "--out", str(tmp_path), *ca])
    told = capsys.readouterr()
    assert "PRIVATE" not in told.out + told.err


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (["init"], 4),
        (["init", "--ca-cert", "x"], 2),
        (["issue", "pig", "n1"], 2),
        (["issue", "join", "a1"], 2),
        (["issue", "operator", "anna"], 2),
        (["issue", "node", "n1"], 2),
        (["revoke", "node.n9", "--reason", "x", "--yes"], 3),
        (["renew", "/nowhere.crt"], 1),
    ],
)
def test_each_refusal_has_its_exit_status(line: list[str], status: int, ca: list[str]) -> None:
    assert run(["pki", *line, *ca]) == status
