"""``metastack agent``: the node daemon's command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..cli.frame import noun

app = noun("agent", "The node daemon.")


@app.callback()
def agent() -> None:
    """The node daemon: it claims VMs, boots them and fences lost nodes."""


@app.command()
def run(
    config: Annotated[Path | None, typer.Option(help="TOML file, see docs/reference/settings.md.")] = None,
    name: Annotated[str | None, typer.Option(help="The node's name.")] = None,
    endpoint: Annotated[list[str] | None, typer.Option(help="etcd endpoint; may be repeated.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting as NAME=VALUE; may be repeated.")
    ] = None,
) -> None:
    """Run the node daemon until SIGTERM; guests keep running."""
    from .settings import SettingsError, load

    flags: dict[str, str] = {}
    for pair in setting or []:
        key, sep, value = pair.partition("=")
        if not sep:
            typer.echo(f"error: --set {pair!r}: write NAME=VALUE", err=True)
            raise typer.Exit(2)
        flags[key] = value
    if name:
        flags["name"] = name
    if endpoint:
        flags["endpoints"] = ",".join(endpoint)
    try:
        settings = load(config, flags=flags)
    except SettingsError as error:
        typer.echo(f"error: {error}", err=True)
        typer.echo("hint: every setting is documented in docs/reference/settings.md", err=True)
        raise typer.Exit(2) from None
    # structlog loads rich when it finds it, for tracebacks in colour that no agent prints: 5 MB and 40 ms.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    from .main import run as run_agent

    raise typer.Exit(run_agent(settings))
