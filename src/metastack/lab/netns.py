"""Stepping into a network namespace: the one-machine cluster's storage and consoles are reached from there.

Owns: ``setns`` for the calling thread. Refuses: anybody but root, with the command that would do.
Rule: the way back is opened before the way in is taken, and is always taken.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_CLONE_NEWNET: Final = 0x40000000


def path_of(netns: str) -> str:
    """A name is below /run/netns, a path is itself."""
    return netns if netns.startswith("/") else f"/run/netns/{netns}"


@contextmanager
def inside(netns: str) -> Iterator[None]:
    """Run the body in a network namespace; an empty name is the one we are in.

    Threads and sockets made inside stay inside. Raises Problem.
    """
    if not netns:
        yield
        return
    from metastack.commands.problem import Code, Problem

    from ..cli.session import sudo_line

    path = path_of(netns)
    if os.geteuid() != 0:
        raise Problem(
            Code.DENIED,
            "",
            f"this cluster's storage and consoles are inside the network namespace {path}: that needs root",
            f"run `{sudo_line()}`",
        )
    try:
        target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Problem(
            Code.FAILED,
            "",
            f"the network namespace {path} does not exist: {error.strerror}",
            "check that the cluster is up: `metastack dev status`",
        ) from None
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(target)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)
        os.close(target)


def _setns(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
