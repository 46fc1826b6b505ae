"""A worker process: plays some seeds and prints their reports as one JSON list."""

from __future__ import annotations

import sys

import msgspec

from .play import play
from .seeds import script_of


def main(first: int, seeds: int, nodes: int, vms: int, upgrade: int) -> None:
    """Seeds ``first`` to ``first + seeds - 1``."""
    reports = [play(script_of(seed, nodes, vms, bool(upgrade))) for seed in range(first, first + seeds)]
    sys.stdout.buffer.write(msgspec.json.encode(reports))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:6]))
