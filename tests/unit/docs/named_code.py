"""Places in the source that a page names: ``path.py``, ``path.py:Name`` or ``path.py:Class.method``."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TOP = Path(__file__).parents[3]
SOURCE = TOP / "src" / "metastack"
PLACE = re.compile(r"`([\w/]+\.py)(?::([\w.]+))?`")


def names(file: Path) -> set[str]:
    """Functions, classes and methods of a module, and what it assigns at its top."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{n.name}" for n in inner}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def missing(text: str) -> list[str]:
    """Places that a text names and that do not exist."""
    gone = []
    for path, name in sorted(set(PLACE.findall(text))):
        file = SOURCE / path
        if not file.is_file():
            gone.append(path)
        elif name and name not in names(file):
            gone.append(f"{path}:{name}")
    return gone
