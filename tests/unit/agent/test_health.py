"""An agent's warnings about itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from metastack.agent.report.health import Health, warnings
from metastack.core.model import NodeFacts
from metastack.ports import Denied, Fenced, Unavailable
from metastack.storage.twin import MemoryPool, MemoryStorage

FINE = Health(addresses=("10.0.0.1",), seen_as="10.0.0.1")
KNOWN = NodeFacts(name="n1", uuid="u", storage_addresses=("10.0.0.1",))


def test_a_node_that_is_well_says_nothing() -> None:
    assert warnings(FINE, KNOWN, False, True) == ()
    assert warnings(Health(), None, False, False) == ()


@pytest.mark.parametrize(
    ("health", "known", "pending", "says"),
    [
        (Health(addresses=("10.0.0.1",), seen_as=""), KNOWN, False, "does not report the address"),
        (Health(addresses=("10.0.0.2",)), KNOWN, False, "declared 10.0.0.1 before"),
        (Health(addresses=("10.0.0.1",), rights=("may not block clients",)), KNOWN, False, "may not block"),
        (Health(addresses=("10.0.0.1",), storage_why="no route"), KNOWN, False, "can fence no node: no route"),
        (FINE, KNOWN, True, "an unblock of an earlier agent"),
        (Health(addresses=("10.0.0.1",), host=("no barrier",)), KNOWN, False, "no barrier"),
        (
            Health(addresses=("10.0.0.1",), watchdog_device="/nowhere/watchdog"),
            KNOWN,
            False,
            "cannot be read (No such file or directory): it would not reset",
        ),
    ],
)
def test_what_is_wrong_is_said(health: Health, known: NodeFacts, pending: bool, says: str) -> None:
    (found,) = warnings(health, known, pending, True)
    assert says in found


def test_a_file_is_no_watchdog(tmp_path: Path) -> None:
    (tmp_path / "watchdog").touch()
    (found,) = warnings(Health(watchdog_device=str(tmp_path / "watchdog")), None, False, False)
    assert "is not a device" in found
    assert warnings(Health(watchdog_device="/dev/null"), None, False, False) == ()


def test_that_the_storage_does_not_answer_ends_with_its_answer() -> None:
    health = Health()
    health.note_storage_answer(Unavailable("no route"))
    assert health.storage_why == "no route"
    health.note_storage_answer(Fenced("a block is no silence"))
    assert not health.storage_why


async def test_rights_are_tried_and_that_they_cannot_be_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, health = MemoryStorage(MemoryPool(), "10.0.0.1"), Health()
    await health.try_rights(storage)
    assert (health.rights, health.seen_as) == ((), "10.0.0.1")

    async def refuse() -> tuple[str, ...]:
        raise Denied("no")

    monkeypatch.setattr(storage, "rights", refuse)
    await health.try_rights(storage)
    assert health.rights == ("its rights could not be found out: no",)


def test_libvirt_guests_is_told_while_it_is_enabled(tmp_path: Path) -> None:
    health = Health(addresses=("10.0.0.1",), seen_as="10.0.0.1", units=tmp_path)
    assert warnings(health, KNOWN, False, True) == ()
    unit = tmp_path / "multi-user.target.wants/libvirt-guests.service"
    unit.parent.mkdir()
    unit.touch()
    assert "libvirt-guests is enabled" in warnings(health, KNOWN, False, True)[0]
