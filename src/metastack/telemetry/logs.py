"""Where log events go: stderr or the journal, and a sink (syslog) beside it.

Owns: the shape of an event line: ``time``, ``level``, ``event``, the event's own fields, ``host``, ``app``.
Refuses: buffering, files, rotation (journald and the syslog server do that), and free-text messages of our
own: what other packages log through the standard library becomes the event ``library``.
Rule: logging never raises and never waits for a sink; a value that JSON does not know becomes its ``str``.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog

from .journal import Journal, journal_reads

Format = Literal["auto", "json", "console"]

Sink = Callable[[str, str, str, bytes], None]
"""Called with level, event name, RFC 3339 time and the JSON line (no newline) by any thread; never blocks."""

MAX_SINK_BYTES: Final = 8000
"""Longest JSON line given to the sink: rsyslog's default maximum message is 8 KiB, its header included."""
MAX_JOURNAL_BYTES: Final = 32_000
"""Longest JSON line given to the journal: what the node's rsyslog forwards whole (deploy/rsyslog)."""
_LONG_TEXT: Final = 500
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

_Event = MutableMapping[str, Any]


def encode_event(event: Mapping[str, Any], limit: int = 0) -> bytes:
    """One JSON object; with a limit (bytes), long texts are cut, then all fields left out, and it says so."""
    line = _ENCODER.encode(event)
    if not limit or len(line) <= limit:
        return line
    cut = {
        k: v[:_LONG_TEXT] + "…" if isinstance(v, str) and len(v) > _LONG_TEXT else v for k, v in event.items()
    }
    line = _ENCODER.encode({**cut, "truncated": True})
    if len(line) <= limit:
        return line
    kept = {k: str(event[k])[:200] for k in ("time", "level", "event", "host", "app") if k in event}
    return _ENCODER.encode({**kept, "truncated": True})


_ENCODER: Final = msgspec.json.Encoder(enc_hook=str, order=None)


class _Output:
    """The last processor: completes the event, writes it out, hands a copy to the sink."""

    def __init__(self, stream: TextIO, json_lines: bool, host: str, app: str, to: Journal | None) -> None:
        self._stream = stream
        self._json = json_lines
        self.journal = to
        self._host, self._app = host, app
        self.sink: Sink | None = None
        colours = not json_lines and stream.isatty() and not os.environ.get("NO_COLOR")
        self._console = structlog.dev.ConsoleRenderer(
            colors=colours,
            timestamp_key="time",
            sort_keys=False,
            pad_event_to=24,
            exception_formatter=structlog.dev.plain_traceback,
        )

    def __call__(self, logger: Any, method: str, event: _Event) -> str:
        level = str(event.pop("level", "info"))
        at = str(event.pop("time", ""))
        name = str(event.pop("event", ""))
        # A field of the event named host or app is about something else: kept as host_, app_.
        fields = {f"{k}_" if k in ("host", "app") else k: v for k, v in event.items()}
        whole = {"time": at, "level": level, "event": name, **fields, "host": self._host, "app": self._app}
        if self.sink is not None:
            self.sink(level, name, at, self._line(whole, MAX_SINK_BYTES))
        if self.journal is not None:
            self.journal.offer(level, name, at, self._line(whole, MAX_JOURNAL_BYTES))
            return ""
        if self._json:
            return self._line(whole).decode()
        shown = {"time": at[11:23], "level": level, "event": name, **event}
        return str(self._console(logger, method, shown))

    @staticmethod
    def _line(whole: dict[str, Any], limit: int = 0) -> bytes:
        try:
            return encode_event(whole, limit)
        except Exception:
            # A field that str(), UTF-8 or 64 bits refuse must not take the caller down with it.
            return encode_event({_plain(k): _plain(v) for k, v in whole.items()}, limit)

    def write(self, line: str) -> None:
        """One line, unless the journal has it; a stream that is gone (closed pipe) is no reason to die."""
        if not line:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass


def _plain(value: object) -> str:
    """Some ASCII text for any object, whatever its ``__str__`` does."""
    try:
        text = str(value)
    except Exception:
        text = f"<{type(value).__name__} without text>"
    return text.encode("ascii", "backslashreplace").decode()


class _Stream:
    """What structlog calls to write a line: one way for every level."""

    def __init__(self, output: _Output) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.msg = output.write


class _Library(logging.Handler):
    """Standard-library records of other packages, as events of the same shape."""

    def __init__(self, output: _Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception as error:  # a bad format string in somebody's package
            message = f"{record.msg!r} ({error})"
        event: _Event = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower() if record.levelname.lower() in _LEVELS else "info",
            "event": "library",
            "logger": record.name,
            "message": message,
        }
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = logging.Formatter().formatException(record.exc_info)
        self._output.write(self._output(None, "", event))


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


_output: _Output | None = None


def configure(
    fmt: Format = "auto",
    level: str = "info",
    host: str = "",
    app: str = "metastack-agent",
    stream: TextIO | None = None,
) -> None:
    """Set structlog and the standard library's logging up for this process; may be called again.

    ``auto``: readable on a terminal, to the journal where journald reads the stream, JSON lines otherwise.
    ``level`` is the least that is shown: debug, info, warning, error or critical (other packages: at least
    warning, unless debug). Raises ValueError for others.
    """
    global _output
    if level not in _LEVELS:
        raise ValueError(f"log level {level!r}: one of {', '.join(_LEVELS)}")
    if fmt not in ("auto", "json", "console"):
        raise ValueError(f"log format {fmt!r}: one of auto, json, console")
    target = sys.stderr if stream is None else stream
    json_lines = fmt == "json" or (fmt == "auto" and not target.isatty())
    to = Journal(app) if fmt == "auto" and journal_reads(target) else None
    output = _Output(target, json_lines, host, app, to)
    output.sink = _output.sink if _output is not None else None
    _output = output
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            output,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Stream(output),
        # A module's logger made before configure() follows it, and a second configure() too.
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Library)]:
        root.removeHandler(handler)
    root.addHandler(_Library(output))
    root.setLevel(_LEVELS[level] if level == "debug" else max(_LEVELS[level], logging.WARNING))
    logging.captureWarnings(True)


def forward_to(sink: Sink | None) -> None:
    """Give every event that passes the level to the sink as well; None: no more."""
    if _output is None:
        raise RuntimeError("configure() comes first")
    _output.sink = sink
