"""Waiting until nodes say that they are ready.

Owns: the wait and what it tells meanwhile. Refuses: starting anything.
Rule: it ends by a deadline, with the logs of the nodes that are not ready.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from metastack.core.model import NodeAlive

from . import proc


def wait_ready(
    names: Collection[str],
    alive: Callable[[], dict[str, NodeAlive]],
    log: Callable[[str], Path],
    timeout_s: float,
    say: Callable[[str], None],
) -> None:
    """Return when all of them are ready; ``say`` hears what they say of themselves until then."""
    told: set[str] = set()

    def missing() -> list[str]:
        found = alive()
        for name in names:
            word = found[name].message if name in found and not found[name].ready else ""
            if word and word not in told:
                told.add(word)
                say(word)
        return [name for name in names if name not in found or not found[name].ready]

    def seen() -> str:
        return "nodes that are not ready:\n" + "\n".join(
            f"--- {name}\n{proc.tail(log(name))}" for name in missing()
        )

    proc.wait_for(lambda: not missing(), timeout_s, seen, every_s=0.1)
