"""``metastack node join``: what a new host runs, once.

Owns: options, the order of its steps, and starting the agent. Refuses: contexts; the token says where etcd is.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from msgspec import Struct

from .frame import Output, frame_of
from .session import note, with_settings

if TYPE_CHECKING:
    from metastack.commands.joining.asking import Joined
    from metastack.commands.request import Cluster
    from metastack.pki.tokens import Token

UNIT: Final = "metastack-agent"
START_S: Final = 120
LONGEST: Final = 65_536
"""Characters that are read from standard input."""


class NodeJoined(Struct, kw_only=True):
    """A node that joined."""

    name: str
    settings: str
    """Its agent's settings file."""
    agent: str
    """``started``, or the command that starts it."""


def join(
    ctx: typer.Context,
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Join token, or - to read it from input.")],
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="HOST", help="Host of the certificate, unless the token names them."),
    ] = None,
    storage_address: Annotated[
        list[str] | None,
        typer.Option("--storage-address", metavar="IP", help="IP towards the storage; default: towards etcd."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Refuse a token for another node.")] = "",
    root: Annotated[Path, typer.Option("--root", metavar="FOLDER", help="Folder in place of /.")] = Path("/"),
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start the agent.")] = True,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0.1, help="Maximum wait for an answer, seconds.")
    ] = 60.0,
) -> None:
    """Join this host to a cluster. Repeat it if it was interrupted."""
    from metastack.commands.joining.asking import ask
    from metastack.commands.joining.layout import NodeLayout
    from metastack.commands.problem import Code, Problem
    from metastack.pki.tokens import check_token, parse_token, turned_away

    from .output import Column, Printer
    from .pki import refused, utc_now

    frame = frame_of(ctx)
    text = sys.stdin.read(LONGEST) if token == "-" else token
    with refused():
        read = parse_token(text)
        layout = NodeLayout(root, read.node)
        check_token(read, utc_now(), name, layout.known_ca())
        own = _own_address(read)
        hosts, addresses = tuple(host or filter(None, [own])), tuple(storage_address or filter(None, [own]))
        key = layout.key()

        async def work(cluster: Cluster) -> Joined:
            return await ask(
                cluster.store,
                cluster.keys,
                read,
                key,
                utc_now,
                hosts=hosts,
                storage_addresses=addresses,
                answer_s=timeout,
            )

        with layout.bearer(read) as settings:
            try:
                joined = with_settings(settings, work)
            except Problem as error:
                # etcd ends the handshake with a bearer whose certificate is over.
                if error.code is Code.UNREACHABLE and utc_now() >= read.expires:
                    raise turned_away(read, utc_now()) from error
                raise
        wrote = layout.write(joined, read.endpoints, {})
    if wrote.kept:
        note(frame, f"{wrote.settings} was there and stays; compare it with {wrote.settings}.new")
    command = f"systemctl enable --now {UNIT}"
    systemd = Path("/run/systemd/system").is_dir() and root == Path("/")
    started = start and systemd and _start()
    answer = NodeJoined(name=joined.node, settings=str(wrote.settings), agent="started" if started else command)
    if frame.output in (Output.TABLE, Output.WIDE):
        print(f"node {joined.node} joined")
        note(frame, f"{UNIT} started" if started else f"start its agent: `{command}`")
        return
    printer: Printer[NodeJoined] = Printer(frame.output, [Column("NAME", lambda v: v.name)], lambda v: v.name)
    printer.one(answer)


def _start() -> bool:
    """Enable and start the agent; one that runs already is restarted with its new credentials."""
    from metastack.commands.problem import Code, Problem

    for words in (("enable", UNIT), ("restart", UNIT)):
        try:
            done = subprocess.run(
                ["systemctl", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_S
            )
        except subprocess.TimeoutExpired:
            said = f"does not end within {START_S} s"
        else:
            if done.returncode == 0:
                continue
            said = done.stderr.strip()[-300:]
        raise Problem(
            Code.FAILED,
            UNIT,
            f"the node joined, and its agent does not start: {said}",
            f"`journalctl -u {UNIT}`; then `systemctl restart {UNIT}`",
        )
    return True


def _own_address(token: Token) -> str:
    """The address of this host that routes to etcd; empty: only to itself, or not at all."""
    import socket
    from urllib.parse import urlsplit

    for endpoint in token.endpoints:
        parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        try:
            found = socket.getaddrinfo(parts.hostname, parts.port or 2379, type=socket.SOCK_DGRAM)
            for family, kind, protocol, _, address in found:
                with socket.socket(family, kind, protocol) as probe:
                    probe.connect(address)  # sends nothing
                    return str(probe.getsockname()[0])
        except (OSError, ValueError):
            continue
    return ""
