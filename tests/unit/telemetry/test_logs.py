"""The shape of an event line, and that logging never takes its caller down."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator

import pytest
import structlog

from metastack.telemetry import logs

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    logging.captureWarnings(False)
    root.setLevel(level)
    root.handlers[:] = handlers
    logs._output = None
    structlog.reset_defaults()


def read(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", "n1", stream=stream)
    structlog.get_logger().info("claimed", vm="default/hello", epoch=7, ips=("10.0.0.1",))
    (event,) = read(stream)
    assert list(event) == ["time", "level", "event", "vm", "epoch", "ips", "host", "app"]
    assert RFC3339.fullmatch(str(event.pop("time")))
    assert event == {
        "level": "info",
        "event": "claimed",
        "vm": "default/hello",
        "epoch": 7,
        "ips": ["10.0.0.1"],
        "host": "n1",
        "app": "metastack-agent",
    }


def test_below_the_level_nothing_is_written() -> None:
    stream = io.StringIO()
    logs.configure("json", "warning", stream=stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [e["event"] for e in read(stream)] == ["loud"]


def test_an_early_logger_follows_each_configure() -> None:
    early = structlog.get_logger()
    first, second = io.StringIO(), io.StringIO()
    logs.configure("json", stream=first)
    early.info("one")
    logs.configure("json", stream=second)
    early.info("two")
    assert [e["event"] for e in read(first)] == ["one"]
    assert [e["event"] for e in read(second)] == ["two"]


def test_host_and_app_fields_keep_the_origin() -> None:
    stream = io.StringIO()
    logs.configure("json", host="n1", stream=stream)
    structlog.get_logger().info("seen", host="n2", app="x")
    (event,) = read(stream)
    assert (event["host"], event["host_"], event["app_"]) == ("n1", "n2", "x")


def test_the_standard_library_goes_the_same_way() -> None:
    stream = io.StringIO()
    logs.configure("json", host="n1", stream=stream)
    logging.getLogger("somebody").warning("disk %s is odd", "vda")
    logging.getLogger("somebody").info("chatter is left out")
    try:
        raise OSError("no")
    except OSError:
        logging.getLogger("somebody").exception("failed")
    first, second = read(stream)
    assert first["event"] == "library"
    assert first["logger"] == "somebody"
    assert first["message"] == "disk vda is odd"
    assert RFC3339.fullmatch(str(first["time"]))
    assert second["level"] == "error"
    assert "OSError: no" in str(second["exception"])


def test_a_bad_format_string_of_another_package_is_still_logged() -> None:
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    (ours,) = [h for h in logging.getLogger().handlers if isinstance(h, logs._Library)]
    ours.handle(logging.LogRecord("somebody", logging.WARNING, "x.py", 1, "%d", ("text",), None))
    assert "%d" in str(read(stream)[0]["message"])


def test_python_warnings_become_events() -> None:
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old habit", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    (event,) = read(stream)
    assert event["logger"] == "py.warnings"
    assert "old habit" in str(event["message"])


def test_configure_twice_does_not_double_the_standard_librarys_events() -> None:
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    logs.configure("json", stream=stream)
    logging.getLogger("somebody").warning("once")
    assert len(read(stream)) == 1


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    def __repr__(self) -> str:
        return "<unprintable>"


@pytest.mark.parametrize("value", [Unprintable(), "\ud800", 1 << 70, {1, 2}, b"\xff", float("nan"), object()])
def test_no_value_takes_the_caller_down(value: object) -> None:
    stream = io.StringIO()
    seen: list[bytes] = []
    logs.configure("json", stream=stream)
    logs.forward_to(lambda level, event, at, line: seen.append(line))
    structlog.get_logger().info("odd", value=value)
    (event,) = read(stream)
    assert event["event"] == "odd"
    assert json.loads(seen[0])["event"] == "odd"


def test_a_closed_stream_takes_nobody_down() -> None:
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    stream.close()
    structlog.get_logger().info("unheard")


def test_an_exception_is_a_field_on_the_same_line() -> None:
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger().exception("crashed", vm="default/x")
    (event,) = read(stream)
    assert event["level"] == "error"
    assert str(event["exception"]).endswith("ValueError: boom")


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_on_a_terminal_it_is_readable(monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    stream = Terminal()
    logs.configure("auto", stream=stream)
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger().exception("crashed", vm="default/x")
    text = stream.getvalue()
    assert "crashed" in text
    assert "default/x" in text
    assert "ValueError: boom" in text
    assert not text.startswith("{")
    assert ("\x1b[" in text) is coloured


def test_the_sink_survives_a_second_configure() -> None:
    seen: list[tuple[str, str, str, bytes]] = []
    logs.configure("console", stream=io.StringIO(), host="n1")
    logs.forward_to(lambda *given: seen.append(given))
    structlog.get_logger().error("fenced", node="n2")
    logs.configure("json", stream=io.StringIO(), host="n1")
    structlog.get_logger().info("again")
    logs.forward_to(None)
    structlog.get_logger().info("not this")
    assert [(level, event) for level, event, _, _ in seen] == [("error", "fenced"), ("info", "again")]
    assert json.loads(seen[0][3])["node"] == "n2"
    assert RFC3339.fullmatch(seen[0][2])


def test_forward_to_before_configure_is_a_bug_said_aloud() -> None:
    with pytest.raises(RuntimeError, match="configure"):
        logs.forward_to(None)


@pytest.mark.parametrize(("fmt", "level"), [("xml", "info"), ("json", "loud")])
def test_wrong_settings_are_refused_with_the_choices(fmt: str, level: str) -> None:
    with pytest.raises(ValueError, match="one of"):
        logs.configure(fmt, level)  # type: ignore[arg-type]


def test_a_long_text_is_cut_and_the_rest_kept() -> None:
    line = logs.encode_event({"event": "x", "vm": "a/b", "output": "y" * 20_000}, limit=8000)
    event = json.loads(line)
    assert len(line) <= 8000
    assert event["vm"] == "a/b"
    assert event["truncated"] is True


def test_an_event_too_wide_keeps_its_name() -> None:
    line = logs.encode_event({"event": "x", "level": "info", **{f"f{i}": "y" * 400 for i in range(100)}}, 8000)
    assert json.loads(line) == {"event": "x", "level": "info", "truncated": True}
