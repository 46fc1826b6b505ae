"""Where ``metastack`` starts: a Ctrl-C while the command line is imported ends it without a traceback."""

from __future__ import annotations

import os
from typing import NoReturn


def main() -> NoReturn:
    """Import the command line and run it."""
    try:
        from .main import main as program

        program()
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    main()
