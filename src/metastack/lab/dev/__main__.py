"""``python -m metastack.lab.dev``: the same commands as ``metastack dev``."""

from .cli import app

app()
