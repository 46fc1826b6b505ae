"""``metastack dev``: the one-machine cluster's commands.

Owns: their options and what they print. Refuses: doing anything itself (see :mod:`.cluster`).
Rule: data goes to stdout, progress to stderr; an error is one message that says what to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer

from metastack import contexts
from metastack.cli.frame import noun
from metastack.cli.session import confirm
from metastack.contexts import ContextError
from metastack.ports import Broken, NotFound, Refused, Unavailable

from .chaos.cli import chaos
from .cluster import Cluster
from .etcd import EtcdFailed
from .layout import cache, clusters
from .remains import losses
from .status import report

app = noun("dev", "Development cluster on this machine: simulated hosts, etcd, storage.")


app.command("chaos")(chaos)


class Storage(StrEnum):
    CEPH = "ceph"
    FILE = "file"


class From(StrEnum):
    ETCD = "etcd"
    STORAGE = "storage"
    ALL = "all"


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


DEFAULT = "dev"
New = Annotated[str, typer.Option("--name", help="Name of the cluster and of its context.")]
Name = Annotated[
    str,
    typer.Option(
        "--name", help=f"Name of the cluster. [default: the current context's cluster, else {DEFAULT}]"
    ),
]
Node = Annotated[str, typer.Argument(metavar="NODE", help="Node: n1, n2, …")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")]
Format = Annotated[Output, typer.Option("-o", "--output", help="Output format: table or json.")]


@app.command()
def up(
    name: New = DEFAULT,
    nodes: Annotated[int | None, typer.Option(min=1, max=30, help="Simulated hosts. [default: 3]")] = None,
    etcd: Annotated[int | None, typer.Option(help="etcd members, 1 or 3. [default: 1]")] = None,
    storage: Annotated[
        Storage | None, typer.Option(help="Storage backend. [default: ceph as root with namespaces, else file]")
    ] = None,
    ttl: Annotated[int | None, typer.Option(min=2, max=60, help="Node lease, seconds. [default: 5]")] = None,
    secure: Annotated[
        bool | None, typer.Option("--secure", help="TLS and rights in etcd, as on real hosts.")
    ] = None,
    output: Format = Output.TABLE,
) -> None:
    """Start the cluster, or its missing parts.

    Its context becomes the current one.
    """
    with _errors(output):
        cluster = _named(name, output)
        cluster.up(nodes, etcd, storage.value if storage else None, ttl, secure, say=_progress)
        _show(report(cluster), output)


@app.command()
def down(ctx: typer.Context, name: Name = "", yes: Yes = False, output: Format = Output.TABLE) -> None:
    """Stop the cluster and remove all of it.

    It also removes what a SIGKILL, a reboot or a deleted state folder left behind.
    """
    with _errors(output):
        cluster = _chosen(ctx, name, output)
        confirm(f"Remove cluster {cluster.layout.name}: {losses(cluster.layout)}?", yes)
        cluster.down(say=lambda text: _progress(f"{cluster.layout.name}: {text}"))
        if cache().is_dir():
            _progress(f"{cluster.layout.name}: kept for the next cluster: {cache()}")


@app.command()
def status(ctx: typer.Context, name: Name = "", output: Format = Output.TABLE) -> None:
    """Show the processes of the cluster and their memory."""
    with _errors(output):
        _show(report(_chosen(ctx, name, output)), output)


@app.command("kill-node")
def kill_node(ctx: typer.Context, node: Node, name: Name = "", output: Format = Output.TABLE) -> None:
    """Power off a node."""
    with _errors(output):
        cluster = _chosen(ctx, name, output)
        cut = cluster.kill_node(node)
        _hit(cluster, node, "power cut" if cut else "already off")


@app.command("start-node")
def start_node(
    ctx: typer.Context,
    node: Node,
    name: Name = "",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return without waiting.")] = False,
    output: Format = Output.TABLE,
) -> None:
    """Power on a node and wait until it is ready."""
    with _errors(output):
        cluster, began = _chosen(ctx, name, output), time.monotonic()
        _hit(cluster, node, "already on" if cluster.is_on(node) else "starting")
        cluster.start_node(node)
        if not no_wait:
            cluster.wait_ready(names=[node], say=lambda text: _hit(cluster, node, text))
            _hit(cluster, node, f"ready after {time.monotonic() - began:.1f} s")


@app.command()
def cut(
    ctx: typer.Context,
    node: Node,
    name: Name = "",
    from_: Annotated[From, typer.Option("--from", help="Network to cut: etcd, storage or all.")] = From.ALL,
    output: Format = Output.TABLE,
) -> None:
    """Cut the network of a node to etcd, to the storage, or to both."""
    with _errors(output):
        cluster = _chosen(ctx, name, output)
        cluster.cut(node, from_.value)
        _hit(cluster, node, f"cut off from {'everything' if from_ is From.ALL else from_.value}")


@app.command()
def heal(ctx: typer.Context, node: Node, name: Name = "", output: Format = Output.TABLE) -> None:
    """Restore the network of a node."""
    with _errors(output):
        cluster = _chosen(ctx, name, output)
        cluster.heal(node)
        _hit(cluster, node, "network restored")


def _chosen(ctx: typer.Context, name: str, output: Output) -> Cluster:
    """The cluster that was named, else the current context's if that is one of these, else ``dev``."""
    current = str(getattr(ctx.find_root().obj, "context", "") or os.environ.get(contexts.ENV_CONTEXT, ""))
    if not name and not current:
        current = contexts.load().current
    return _named(name or (current if current in clusters() else DEFAULT), output)


def _named(name: str, output: Output) -> Cluster:
    try:
        return Cluster(name)
    except Refused as error:  # only a bad name
        _fail(output, 2, "usage", str(error))


def _hit(cluster: Cluster, node: str, what: str) -> None:
    """Say which cluster and node it was."""
    _progress(f"{cluster.layout.name}: {node}: {what}")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show(found: dict[str, Any], output: Output) -> None:
    if output is Output.JSON:
        print(json.dumps(found))
        return
    print(f"{found['name']}: {found['mode']}, {found['storage']} storage, {found['rss_mib']:.0f} MiB resident")
    print(f"{'NODE':<6}{'POWER':<7}{'READY':<7}{'ADDRESS':<14}{'VMS':<5}{'MIB':<7}{'SERVICES':<18}CUTS")
    for node in found["nodes"]:
        print(
            f"{node['name']:<6}{node['power']:<7}{'yes' if node['ready'] else 'no':<7}{node['address']:<14}"
            f"{node['vms']:<5}{node['rss_mib']:<7.0f}{','.join(node['services']):<18}{','.join(node['cuts'])}"
        )
    for row in found["processes"]:
        if row["node"] is None:
            print(f"{row['role']:<20}pid {row['pid']:<8}{row['rss_mib']:.0f} MiB")


@contextlib.contextmanager
def _errors(output: Output) -> Iterator[None]:
    """Every expected failure as one message, with the CLI's exit codes."""
    try:
        yield
    except NotFound as error:
        _fail(output, 3, "not_found", str(error))
    except ContextError as error:
        _fail(output, 3 if error.missing else 1, "failed", f"{error.message}: {error.hint}")
    except (Unavailable, Refused, EtcdFailed, Broken) as error:
        _fail(output, 1, "failed", str(error))
    except PermissionError as error:
        _fail(
            output,
            6,
            "denied",
            f"{error.filename}: {error.strerror}: the cluster may belong to another user; try with sudo",
        )


def _fail(output: Output, code: int, kind: str, message: str) -> NoReturn:
    if output is Output.JSON:
        error = {"code": kind, "object": "cluster", "message": message, "hint": None}
        print(json.dumps({"error": error}), file=sys.stderr)
    else:
        print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(code)
