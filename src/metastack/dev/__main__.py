"""``python -m metastack.dev``: the same commands as ``metastack dev``."""

from .cli import app

app()
