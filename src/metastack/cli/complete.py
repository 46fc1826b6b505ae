"""Shell completion with live names.

Owns: what completion asks the cluster. Refuses: errors and delays.
Rule: a name that does not come within a second does not come; nothing is printed.
"""

from __future__ import annotations

from typing import Final

import typer

from .frame import frame_of

PATIENCE_S: Final = 1.0


def _keys_below(ctx: typer.Context, kind: str) -> list[tuple[str, ...]]:
    """The names under one kind of key, or nothing."""
    import asyncio

    try:
        return asyncio.run(_read(ctx, kind))
    except Exception:  # a shell in the middle of a line wants no message
        return []


async def _read(ctx: typer.Context, kind: str) -> list[tuple[str, ...]]:
    import asyncio

    from metastack.core.state.keys import Keys, Kind
    from metastack.store.etcd.store import EtcdStore

    from .session import context_of

    context = context_of(frame_of(ctx))
    keys = Keys(context.store.root)
    store = EtcdStore(context.store, total_timeout_s=PATIENCE_S)
    try:
        async with asyncio.timeout(PATIENCE_S):
            snapshot = await store.list(keys.prefix(Kind(kind)))
    finally:
        await store.close()
    found = (keys.parse(entry.key) for entry in snapshot.entries)
    return [parsed.names for parsed in found if parsed is not None]


def vm_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """``NAME`` of the project that was said (or ``default``), and ``PROJECT/NAME`` of the others."""
    project = str(ctx.params.get("project") or "default")
    found = [name if there == project else f"{there}/{name}" for there, name in _keys_below(ctx, "desired/vms")]
    return sorted(name for name in found if name.startswith(incomplete))


def _single(ctx: typer.Context, kind: str, incomplete: str) -> list[str]:
    return sorted(names[0] for names in _keys_below(ctx, kind) if names[0].startswith(incomplete))


def node_names(ctx: typer.Context, incomplete: str) -> list[str]:
    return _single(ctx, "nodes", incomplete)


def image_names(ctx: typer.Context, incomplete: str) -> list[str]:
    return _single(ctx, "config/images", incomplete)


def project_names(ctx: typer.Context, incomplete: str) -> list[str]:
    return sorted({"default", *_single(ctx, "config/projects", incomplete)})


def setting_keys(incomplete: str) -> list[str]:
    from metastack.commands.cluster.settings import SETTINGS

    return [field.name for field in SETTINGS if field.name.startswith(incomplete)]


def setting_names(incomplete: str) -> list[str]:
    return [f"{key}=" for key in setting_keys(incomplete)]
