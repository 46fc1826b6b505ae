"""The program's three streams, made fit for whatever a shell gave: another encoding, a full disk, none at all.

Owns: file descriptors 0, 1 and 2 from the program's first moment on. Refuses: deciding what is printed.
Rule: text that a stream cannot encode is escaped, never an error. What cannot be written to stdout ends the
command with one line and status 1; stderr is where that would be said, so what it does not take is dropped.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class CannotWrite(Exception):
    """Stdout did not take what was written to it; a pipe whose reader has gone is no such case."""


class _Out(io.FileIO):
    """Stdout's file descriptor. An OSError of its own kind: a command's other errors must not look like it."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise CannotWrite(error.strerror or str(error)) from None


class _Err(io.FileIO):
    """Stderr's file descriptor: nobody could be told that it does not work."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def prepare() -> None:
    """Take the streams over. A number that the shell closed is taken: no file or socket of ours gets it."""
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # Stdout only for reading: writing to it fails, as it should.
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = _text(_Out(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Err(2, "w", closefd=False), sys.stderr, at_once=True)


def _text(raw: io.FileIO, before: Any, at_once: bool = False) -> io.TextIOWrapper:
    encoding = getattr(before, "encoding", None) or "utf-8"
    try:
        live = os.isatty(raw.fileno())
    except OSError:
        live = False
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding,
        "backslashreplace",
        line_buffering=live or at_once,
        write_through=at_once,
    )


def printable(text: str) -> str:
    """A name or an argument as text that can be kept and encoded: bytes that are no UTF-8 are escaped."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character that stands for no byte either
        return text.encode("utf-8", "backslashreplace").decode()
