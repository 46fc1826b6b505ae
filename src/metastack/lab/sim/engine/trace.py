"""The trace of a run: every fault, committed transaction and log event of the agents, in order.

Owns: what one line is, and the hash that says whether two runs were the same.
Refuses: wall time, object ids, anything that another process would have otherwise.
Rule: what is not in the trace did not matter; what is in it must come out the same from the same seed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import structlog

from .loop import PROCESS

_HIDDEN: Final = frozenset({"level"})


class Trace:
    """Lines of ``SECOND WHO WHAT``; the hash covers them all."""

    def __init__(self, keep: bool = True) -> None:
        self.lines: list[str] = []
        self.events: list[tuple[float, str, str, dict[str, Any]]] = []
        """Log events of the agents: time, node, name, fields."""
        self.on_event: Callable[[str, str, dict[str, Any]], None] | None = None
        self._hash = hashlib.blake2b(digest_size=16)
        self._keep = keep
        self.closed = False

    @property
    def hash(self) -> str:
        return self._hash.hexdigest()

    def add(self, who: str, what: str) -> None:
        """One line, at the loop's time."""
        if self.closed:
            return
        line = f"{asyncio.get_running_loop().time():9.3f} {who:<6} {what}"
        self._hash.update(line.encode())
        if self._keep:
            self.lines.append(line)

    def log(self, event: MutableMapping[str, Any]) -> None:
        """One log event of the agent that runs now."""
        process = PROCESS.get()
        if process is None or process.dead or self.closed:
            return
        node = process.name.split("#")[0]
        name = str(event.pop("event", ""))
        fields = {key: value for key, value in event.items() if key not in _HIDDEN and key != "node"}
        if self.on_event is not None:
            self.on_event(node, name, fields)
        self.add(node, " ".join([name, *(f"{key}={_text(fields[key])}" for key in sorted(fields))]))


def _text(value: object) -> str:
    text = str(value)
    return repr(text) if " " in text or not text else text


_current: Trace | None = None


class _Nothing:
    """Where rendered lines go."""

    def msg(self, line: str) -> None: ...

    debug = info = warning = error = critical = msg


def _processor(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    if _current is not None:
        _current.log(event)
    return ""


def listen(trace: Trace | None) -> None:
    """Let every log event of this process go into a trace; None: nowhere."""
    global _current
    _current = trace
    structlog.configure(
        processors=[_processor],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=lambda *_: _Nothing(),
        cache_logger_on_first_use=False,
    )
