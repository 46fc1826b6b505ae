"""Settings that cannot be read: the last ones hold; without any, careful ones."""

from __future__ import annotations

from placement_rig import KEYS

from metastack.core.model import CAREFUL, ClusterConfig
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import encode
from metastack.core.transaction import Batch, Entry, KeyEvent, Snapshot

TIGHT = ClusterConfig(brake_percent=0, lease_ttl_s=9)


def entry(value: bytes, mod: int) -> Entry:
    return Entry(KEYS.cluster(), value, 1, mod, 1, 0)


def news(value: bytes | None, revision: int) -> Batch:
    found = entry(value, revision) if value is not None else None
    return Batch(revision, (KeyEvent(KEYS.cluster(), revision, found),))


def test_the_last_that_could_be_read_hold() -> None:
    world = ClusterState(KEYS)
    world.load(Snapshot(5, (entry(encode(TIGHT), 5),)))
    for broken in (b'{"v":99}', b"\xff", b'{"lease_ttl_s":0}', b'{"syslog":"where?"}'):
        world.apply(news(broken, world.revision + 1))
        assert world.config == TIGHT
        assert world.known_config.why
        assert world.known_config.was_read
    world.load(Snapshot(20, (entry(b"{", 20),)))
    assert world.config == TIGHT
    world.apply(news(b"{}", 21))
    assert world.config == ClusterConfig() and not world.known_config.why


def test_without_any_they_are_careful() -> None:
    world = ClusterState(KEYS)
    world.load(Snapshot(5, (entry(b'{"v":99}', 5),)))
    assert world.config == CAREFUL
    assert not world.known_config.was_read
    world.apply(news(encode(TIGHT), 6))
    assert world.config == TIGHT and world.known_config.was_read


def test_absent_ones_are_the_defaults_and_so_they_stay() -> None:
    world = ClusterState(KEYS)
    assert world.config == ClusterConfig() and world.known_config.was_read
    world.load(Snapshot(5, ()))
    world.apply(news(b'{"v":99}', 6))
    assert world.config == ClusterConfig() and world.known_config.was_read and world.known_config.why
    world.apply(news(None, 7))
    assert world.config == ClusterConfig() and not world.known_config.why


def test_careful_ones_are_no_laxer_than_the_defaults() -> None:
    usual = ClusterConfig()
    assert CAREFUL.brake_percent == 0 < usual.brake_percent
    for field in ("lease_ttl_s", "grace_s", "brake_window_s", "stop_timeout_s", "trash_retention_s"):
        assert getattr(CAREFUL, field) >= getattr(usual, field), field
    assert CAREFUL.event_retention_days > usual.event_retention_days
