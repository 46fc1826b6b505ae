"""A context in one file, with its certificates: what an admin hands to a colleague.

Owns: the file's form, and what is checked before a context with certificates is taken. Refuses: connecting.
Rule: the file holds a private key, so it is written with mode 0600, and one that others may read is refused.
"""

from __future__ import annotations

import contextlib
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import tomli_w
from msgspec import Struct
from msgspec.structs import replace

from metastack.contexts import Context, identity_folder, owned_folder, save_context
from metastack.core.model import valid_name
from metastack.pki.files import (
    CA_FILE,
    SECRET_MODE,
    IdentityFiles,
    load_certificate,
    load_key,
    read,
    read_identity,
    write,
    write_identity,
)
from metastack.pki.refusal import Refusal, Why
from metastack.settings import StorageSettings, StoreSettings

KEYRING_FILE: Final = "ceph.keyring"
VERSION: Final = 1


class ExportedContext(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A context whose files are inside."""

    v: int
    name: str
    endpoints: tuple[str, ...]
    root: str
    ca: str = ""
    cert: str = ""
    key: str = ""
    """PEM each."""
    storage: StorageSettings | None = None
    """Without the keyring's path."""
    keyring: str = ""
    """The keyring itself."""


def check_identity(store: StoreSettings, now: datetime) -> None:
    """Raise Refusal unless the certificate, its key and the CA fit each other and are valid now."""
    if bool(store.cert) is not bool(store.key) or (store.cert and not store.ca):
        raise Refusal(
            Why.NOT_READABLE, "context", "certificate, key and CA go together", "give all three files"
        )
    if store.cert:
        read_identity(IdentityFiles(Path(store.ca), Path(store.cert), Path(store.key)), now)


def export(context: Context, path: Path, now: datetime) -> None:
    """Write a context with everything that it needs; raises Refusal, also for one that would be refused."""
    store, storage = context.store, context.storage
    check_identity(store, now)
    made = ExportedContext(
        v=VERSION,
        name=context.name,
        endpoints=store.endpoints,
        root=store.root,
        ca=_text(store.ca),
        cert=_text(store.cert),
        key=_text(store.key, secret=True),
        storage=replace(storage, keyring="") if storage is not None else None,
        keyring=_text(storage.keyring, secret=True) if storage is not None else "",
    )
    if path.exists():
        raise Refusal(Why.EXISTS, str(path), "exists already", "name another file")
    try:
        write(path, tomli_w.dumps(msgspec.to_builtins(made)).encode(), SECRET_MODE)
    except OSError as error:
        raise Refusal(Why.NOT_READABLE, str(path), f"cannot be written: {error.strerror}") from None


def take(path: Path, name: str, now: datetime) -> Context:
    """Make a context of an exported file, and the current one; raises Refusal before anything is written."""
    found = parse(path)
    name = name or found.name
    if not valid_name(name):  # it becomes a folder's name
        raise Refusal(Why.BAD_NAME, f"context {name!r}", "the name is not a DNS label", "use a-z, 0-9 and -")
    context = Context(name=name, store=StoreSettings(endpoints=found.endpoints, root=found.root))
    folder = identity_folder(context.name)
    if found.cert:
        context = _with_certificates(context, found, folder, path, now)
    if found.storage is not None:
        keyring = folder / KEYRING_FILE
        context = replace(
            context, storage=replace(found.storage, keyring=str(keyring) if found.keyring else "")
        )
        if found.keyring:
            with owned_folder(folder):
                write(keyring, found.keyring.encode(), SECRET_MODE)
    save_context(context)
    return context


def _with_certificates(
    context: Context, found: ExportedContext, folder: Path, path: Path, now: datetime
) -> Context:
    """Judged where nothing of the context before is: only what is good takes its place."""
    ca = load_certificate(found.ca.encode(), f"{path}: ca")
    certificate = load_certificate(found.cert.encode(), f"{path}: cert")
    key = load_key(found.key.encode(), f"{path}: key")
    with owned_folder(folder.with_name(f".{folder.name}.new")) as aside:
        try:
            read_identity(write_identity(aside, "client", ca, certificate, key), now)
        except Refusal as error:
            object, message = (text.replace(f"{aside}/", "") for text in (error.object, error.message))
            hint = "export the context again on a host where it works"
            raise Refusal(error.why, f"{path}: {object}", message, hint) from None
        finally:
            forget_files(aside)
    with owned_folder(folder):
        files = write_identity(folder, "client", ca, certificate, key)
    store = replace(context.store, ca=str(files.ca), cert=str(files.cert), key=str(files.key))
    return replace(context, store=store)


def forget_files(folder: Path) -> None:
    """Delete the certificates and keys in a context's own folder, and the folder when it is empty."""
    for file in (CA_FILE, KEYRING_FILE, *(path.name for path in folder.glob("*.crt")), "client.key"):
        (folder / file).unlink(missing_ok=True)
    for path in folder.glob("*.key"):
        path.unlink()
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def parse(path: Path) -> ExportedContext:
    """What an exported file holds; raises Refusal."""
    import tomllib

    try:
        raw: dict[str, Any] = tomllib.loads(read(path, secret=True).decode())
        if raw.get("v") != VERSION:
            raise Refusal(Why.NOT_PEM, str(path), "is of another release, or no exported context")
        return msgspec.convert(raw, ExportedContext)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise Refusal(Why.NOT_PEM, str(path), f"is no exported context: {error}") from None


def _text(path: str, *, secret: bool = False) -> str:
    return read(Path(path), secret=secret).decode() if path else ""
