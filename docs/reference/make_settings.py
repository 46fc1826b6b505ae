"""Write docs/reference/settings.md from the fields and docstrings of the agent's settings.

Usage: .venv/bin/python docs/reference/make_settings.py (tests/unit/docs fails while the page is out of date).
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import msgspec

from metastack.agent import settings as agent
from metastack.settings import StorageSettings

HERE = Path(__file__).parent

INTRO = """\
# Agent configuration

Generated from `src/metastack/agent/settings.py` and `src/metastack/settings.py` by
`docs/reference/make_settings.py`; do not edit.

`metastack agent run --config FILE` reads a TOML file. Every setting is also an environment variable, and
`--set NAME=VALUE` on the command line; the later wins: file, environment, flags. Lists are TOML arrays in the
file and comma-separated texts elsewhere. An unknown or wrong setting ends the agent at once with a message that
names it (exit code 2).

What is the same for every node (lease time, grace, overcommit, syslog server …) is not here: it lives in etcd,
see `metastack config show`.

A node on Ceph, as an example:

```toml
name = "n1"
endpoints = ["https://10.0.0.11:2379", "https://10.0.0.12:2379", "https://10.0.0.13:2379"]
ca = "/etc/metastack/etcd-ca.pem"
cert = "/etc/metastack/n1.pem"
key = "/etc/metastack/n1.key"
address = "10.0.0.21"
storage_addresses = ["10.1.0.21"]

[storage]
kind = "ceph"
pool = "vms"
monitors = ["10.1.0.1:6789", "10.1.0.2:6789", "10.1.0.3:6789"]
user = "metastack-n1"
keyring = "/etc/metastack/ceph.keyring"
```
"""


def docstrings(module: Any, name: str) -> dict[str, str]:
    """The text under each field of a class."""
    tree = ast.parse(Path(module.__file__).read_text())
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name).body
    found: dict[str, str] = {}
    for field, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).split())
        found[field.target.id] = text
    return found


def kind(of: msgspec.inspect.Type) -> str:
    """The type and its bounds in words."""
    match of:
        case msgspec.inspect.StrType():
            return "text"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.IntType(ge=low, le=high) | msgspec.inspect.FloatType(ge=low, le=high):
            word = "whole number" if isinstance(of, msgspec.inspect.IntType) else "number"
            if low is not None and high is not None:
                return f"{word}, {low} to {high}"
            return word if low is None else f"{word}, at least {low}"
        case msgspec.inspect.VarTupleType():
            return "list of texts"
        case msgspec.inspect.DictType():
            return "table of whole numbers"
        case msgspec.inspect.LiteralType(values=values):
            return " or ".join(f"`{value}`" for value in values)
    raise TypeError(f"no words for {of}")


def default(field: msgspec.inspect.Field) -> str:
    if field.required:
        return "the host's name" if field.name == "name" else "must be given"
    if field.default in ("", ()) or field.default_factory is dict:
        return "empty"
    return f"`{field.default}`"


def rows(struct: Any, module: Any, variable: str, flag: str) -> list[str]:
    texts = docstrings(module, struct.__name__)
    lines = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for field in msgspec.inspect.type_info(struct).fields:  # type: ignore[attr-defined]
        if isinstance(field.type, msgspec.inspect.StructType):
            continue
        cells = (f"`{flag}{field.name}`", kind(field.type), default(field), texts[field.name])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", f"In the environment: `{variable}` and the name in capitals."]
    return lines


def page() -> str:
    """The whole page."""
    from metastack import settings as shared

    parts = [
        INTRO,
        "## The node",
        "",
        *rows(agent.AgentSettings, agent, agent.ENV_PREFIX, ""),
        "",
        "## Storage: table `[storage]`",
        "",
        *rows(StorageSettings, shared, f"{agent.ENV_PREFIX}STORAGE_", "storage."),
        "",
    ]
    return "\n".join(parts)


def main() -> None:
    (HERE / "settings.md").write_text(page())


if __name__ == "__main__":
    main()
