"""Why a command could not be done, in words for the person who asked.

Owns: the codes that become exit statuses.
Refuses: stack traces, and errors that do not say what to do next when that is known.
Rule: one problem names one object, says what is wrong with it and why; ``hint`` is the next thing to type.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from metastack.ports import (
    Broken,
    Denied,
    Exists,
    InUse,
    InvalidImage,
    NoSpace,
    NotFound,
    Refused,
    Unavailable,
)


class Code(StrEnum):
    """What kind of failure it is. An interruption is none: the CLI writes ``interrupted`` itself."""

    FAILED = "failed"
    USAGE = "usage"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TIMEOUT = "timeout"
    DENIED = "denied"
    UNREACHABLE = "unreachable"


class Problem(Exception):
    """A command that was not done."""

    def __init__(self, code: Code, object: str, message: str, hint: str = "") -> None:
        super().__init__(f"{object}: {message}" if object else message)
        self.code = code
        self.object = object
        """Such as ``vm default/hello``; empty when no object is to blame."""
        self.message = message
        self.hint = hint
        self.others: tuple[Problem, ...] = ()
        """What else went wrong in the same command, of other objects."""

    def __str__(self) -> str:
        """As it is now: a caller may replace the message later."""
        return f"{self.object}: {self.message}" if self.object else self.message


def all_of(problems: Sequence[Problem]) -> Problem:
    """Several as one: the first, which gives the exit status, with the others beside it."""
    first = problems[0]
    first.others = (*first.others, *problems[1:])
    return first


def usage(object: str, message: str, hint: str = "") -> Problem:
    return Problem(Code.USAGE, object, message, hint)


def not_found(object: str, hint: str = "") -> Problem:
    return Problem(Code.NOT_FOUND, object, "does not exist", hint)


def conflict(object: str, message: str, hint: str = "") -> Problem:
    return Problem(Code.CONFLICT, object, message, hint)


_SAYS_ITSELF: Final = (
    *("convert", "decompress", "unpack", "decrypt", "limit", "regular file", "a page of", "WIM file"),
    "multiple of 512",
)


def _image_hint(text: str) -> str:
    """What to do about an image file that was refused; empty when the refusal says it itself."""
    if "truncated" in text or "corrupt" in text:
        return "download the file again, and compare its size and checksum with those of its source"
    if "empty" in text:
        return "check that its download or copy has finished"
    if any(word in text for word in _SAYS_ITSELF):
        return ""
    return "check the file, or name its format with --format raw|qcow2"


def from_storage(error: Exception, object: str) -> Problem:
    """An error of the Storage port as a problem of the object at hand."""
    text = str(error) or type(error).__name__
    if isinstance(error, InvalidImage):
        return Problem(Code.FAILED, object, text, _image_hint(text))
    if isinstance(error, NoSpace):
        return Problem(Code.FAILED, object, text, "free space and try again")
    if isinstance(error, InUse):
        return conflict(object, text, "delete its users first")
    if isinstance(error, Denied):
        return Problem(Code.DENIED, object, text, "check the storage user and its key in the context")
    if isinstance(error, Exists):
        return conflict(object, text)
    if isinstance(error, NotFound):
        return Problem(Code.NOT_FOUND, object, text)
    return Problem(
        Code.FAILED,
        object,
        text,
        "check that the storage is up and that its addresses in the context are right",
    )


_TRIED: Final = re.compile(r"etcd is unreachable after ([0-9.]+) s \((.*)\)$", re.S)
_ITS_WAY: Final = re.compile(
    r"(ipv[46]|unix|dns):\S+: (Failed to connect to remote host|connect failed: addr: \S+ error): "
)

_ITS_NAMES: Final = re.compile(r"errors resolving (\S+): \[.* for \1: ([^\]]*)\]")


def _silence(text: str, endpoints: tuple[str, ...]) -> str:
    """That etcd does not answer: each endpoint once, with its reason, and nothing of how it was asked."""
    if found := _TRIED.search(text):
        said = _ITS_NAMES.sub(r"\2", _ITS_WAY.sub("", found[2]))
        return f"does not answer within {found[1]} s (endpoints tried: {said})"
    return f"does not answer (endpoints tried: {', '.join(endpoints) or 'none'}): {text}"


def from_store(error: Exception, endpoints: tuple[str, ...]) -> Problem:
    """An error of the Store port that no command could make more of."""
    text = str(error) or type(error).__name__
    if isinstance(error, NoSpace):
        return Problem(Code.FAILED, "etcd", text, "compact and defragment it, then `etcdctl alarm disarm`")
    if isinstance(error, Denied):
        return Problem(
            Code.DENIED,
            "etcd",
            text,
            "use a context whose certificate has a role for this (viewer, operator, admin), or ask an admin",
        )
    if isinstance(error, Unavailable):
        return Problem(
            Code.UNREACHABLE,
            "etcd",
            _silence(text, endpoints),
            "check that etcd runs and that the endpoints are right: `metastack context list -o wide`",
        )
    if isinstance(error, Refused | Broken):
        return Problem(Code.FAILED, "etcd", text)
    return Problem(Code.FAILED, "", f"{type(error).__name__}: {text}")
