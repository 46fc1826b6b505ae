"""Print the record types of a release, to be kept as src/metastack/lab/sim/releases/LEVEL.json for ever.

Usage, with the last tree of level N: PYTHONPATH=TREE/src python tests/golden/freeze.py > N.json.
Then RELEASES[N] and LEVEL in core/state/record_versions.py.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from metastack.core.model import RECORDS


def plain(about: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema without words for people."""
    found = {key: value for key, value in about.items() if key not in ("title", "description")}
    if "properties" in found:
        found["properties"] = {name: plain(field) for name, field in found["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), dict):
            found[key] = plain(found[key])
    if "anyOf" in found:
        found["anyOf"] = [plain(one) for one in found["anyOf"]]
    return found


def main() -> None:
    frozen = {}
    for name, kind in sorted(RECORDS.items()):
        (schema,), types = msgspec.json.schema_components([kind], ref_template="{name}")
        frozen[name] = {"root": schema["$ref"], "types": {n: plain(types[n]) for n in sorted(types)}}
    print(json.dumps(frozen, indent=1))


if __name__ == "__main__":
    main()
