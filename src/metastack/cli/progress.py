"""A progress bar on stderr.

Owns: how a long transfer is shown. Refuses: stdout, and any word beside machine output.
"""

from __future__ import annotations

import sys
import time

from .frame import Frame, Output


class Bar:
    """A progress bar on a terminal, now and then a line elsewhere, nothing beside machine output.

    ``sizes``: show the total; not where it counts several passes over the same bytes.
    """

    def __init__(self, frame: Frame, what: str, sizes: bool = True) -> None:
        self._sizes = sizes
        self._quiet = frame.output not in (Output.TABLE, Output.WIDE)
        self._live = sys.stderr.isatty()
        self._what = what
        self._next_s = 0.0
        self._open = False

    def __call__(self, done: int, total: int) -> None:
        from metastack.core.quantity import format_bytes

        now = time.monotonic()
        if self._quiet or (now < self._next_s and done != total):
            return
        self._next_s = now + (0.1 if self._live else 5.0)
        share = f"{done * 100 // total:3d}%" if total else format_bytes(done)
        share += f" of {format_bytes(total)}" if total and self._sizes else ""
        if not self._live:
            sys.stderr.write(f"{self._what}: {share}\n")
            return
        filled = done * 30 // total if total else 0
        sys.stderr.write(f"\r\x1b[K{self._what} [{'#' * filled}{'.' * (30 - filled)}] {share}")
        sys.stderr.flush()
        self._open = True

    def end(self) -> None:
        """Leave the line."""
        if self._open:
            sys.stderr.write("\n")
            self._open = False
