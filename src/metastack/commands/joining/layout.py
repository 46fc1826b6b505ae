"""The files of a joined node, below ``/etc/metastack``, as ``install-node`` lays it out.

Owns: names, modes and order. Refuses: overwriting an ``agent.toml`` that somebody wrote.
Rule: the key is on disk before it is sent anywhere, and the settings come last: a join that died half-way has
the same key when it is repeated, and no agent starts with half of what it needs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tomli_w

from metastack.core.state.keys import DEFAULT_ROOT
from metastack.pki.authority import new_key
from metastack.pki.files import (
    CA_FILE,
    FOLDER_MODE,
    PUBLIC_MODE,
    SECRET_MODE,
    certificate_pem,
    key_pem,
    load_certificate,
    read_certificate,
    read_key,
    write,
)
from metastack.pki.refusal import Refusal, Why
from metastack.pki.tokens import NodeKey, Token
from metastack.settings import StoreSettings

from .asking import Joined

ETC: Final = "etc/metastack"
AGENT_FILE: Final = "agent.toml"
KEYRING: Final = "ceph.keyring"


@dataclass(frozen=True)
class Wrote:
    """Where a node's settings are."""

    settings: Path
    kept: bool = False
    """There were other settings already: the new ones are beside them, in ``agent.toml.new``."""


@dataclass(frozen=True)
class NodeLayout:
    """The files of one node. ``root`` is ``/``, or a folder that stands for it (tests, images)."""

    root: Path
    node: str

    @property
    def etc(self) -> Path:
        return self.root / ETC

    @property
    def pki(self) -> Path:
        return self.etc / "pki"

    @property
    def key_file(self) -> Path:
        return self.pki / f"node.{self.node}.key"

    def known_ca(self) -> Any:
        """The CA of the cluster that this host belongs to already; None: of none."""
        path = self.pki / CA_FILE
        return read_certificate(path) if path.exists() else None

    def key(self) -> NodeKey:
        """The node's key, made once; raises Refusal."""
        try:
            self.pki.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            if not self.key_file.exists():
                write(self.key_file, key_pem(new_key()), SECRET_MODE)
        except OSError as error:
            raise Refusal(
                Why.NOT_READABLE, str(self.pki), f"cannot be written: {error.strerror}", "run as root"
            ) from None
        key = read_key(self.key_file)
        if not isinstance(key, NodeKey):
            raise Refusal(
                Why.WEAK_KEY, str(self.key_file), "is not an EC key", "move it away: the join makes a new one"
            )
        return key

    @contextmanager
    def bearer(self, token: Token) -> Iterator[StoreSettings]:
        """How the token's bearer reaches etcd; its files are gone afterwards."""
        self.pki.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.pki, prefix=".join-") as folder:
            ca, cert, key = (Path(folder, name) for name in ("ca.crt", "cert.crt", "cert.key"))
            write(ca, certificate_pem(token.ca_certificate()), PUBLIC_MODE)
            write(cert, certificate_pem(token.certificate()), PUBLIC_MODE)
            write(key, key_pem(token.private_key()), SECRET_MODE)
            yield StoreSettings(
                endpoints=token.endpoints, root=token.root, ca=str(ca), cert=str(cert), key=str(key)
            )

    def write(self, joined: Joined, endpoints: tuple[str, ...], more: dict[str, Any]) -> Wrote:
        """Everything that the agent needs; the same again changes nothing. ``more``: settings of this host."""
        user = f"node.{self.node}"
        certificate, ca = (load_certificate(pem, user) for pem in (joined.certificate, joined.ca))
        write(self.pki / CA_FILE, certificate_pem(ca), PUBLIC_MODE)
        write(self.pki / f"{user}.crt", certificate_pem(certificate), PUBLIC_MODE)
        if joined.storage_key:
            text = f"[client.{joined.settings.user}]\n\tkey = {joined.storage_key}\n"
            write(self.etc / KEYRING, text.encode(), SECRET_MODE)
        settings = tomli_w.dumps({**self._settings(joined, endpoints), **more}).encode()
        path = self.etc / AGENT_FILE
        if path.exists() and path.read_bytes() != settings:
            write(self.etc / f"{AGENT_FILE}.new", settings, PUBLIC_MODE)
            return Wrote(path, kept=True)
        write(path, settings, PUBLIC_MODE)
        return Wrote(path)

    def _settings(self, joined: Joined, endpoints: tuple[str, ...]) -> dict[str, Any]:
        """As the agent reads them: paths are those of the running host."""
        etc, told = Path("/", ETC), joined.settings
        found: dict[str, Any] = {
            "name": joined.node,
            "endpoints": list(endpoints),
            "ca": str(etc / "pki" / CA_FILE),
            "cert": str(etc / "pki" / f"{joined.user}.crt"),
            "key": str(etc / "pki" / self.key_file.name),
        }
        if told.root != DEFAULT_ROOT:
            found["root"] = told.root
        if told.storage_addresses:
            found["storage_addresses"] = list(told.storage_addresses)
        storage: dict[str, Any] = {"kind": told.storage_kind}
        if told.storage_kind == "ceph":
            storage |= {"pool": told.pool, "monitors": list(told.monitors)}
            storage |= {"user": told.user, "keyring": str(etc / KEYRING)}
        else:
            storage["directory"] = told.directory
        # A table comes last, whatever else is added before it.
        return {**found, "storage": storage}
