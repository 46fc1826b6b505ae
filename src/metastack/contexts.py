"""Contexts: the clusters a person works with, in one TOML file, and which of them is current.

Owns: where the file is, reading it, changing it. Refuses: connecting to anything.
Rule: every change is read, edit, write-aside, rename under one file lock, so that two commands at the same
time lose nothing and a crash leaves the old file. Through sudo the file is the invoking user's: it lies in
that user's home and is written with that user's rights, so that a link planted there gains nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from metastack.core.model import valid_name
from metastack.settings import StorageSettings, StoreSettings

ENV_CONFIG: Final = "METASTACK_CONFIG"
ENV_CONTEXT: Final = "METASTACK_CONTEXT"
ENV_ENDPOINTS: Final = "METASTACK_ENDPOINTS"
ENV_ROOT: Final = "METASTACK_ROOT"


class ContextError(Exception):
    """The context file or what was asked of it is wrong; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "", *, missing: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.missing = missing
        """True: a context of that name does not exist."""


class Context(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One cluster as this machine reaches it."""

    name: str
    store: StoreSettings = StoreSettings()
    storage: StorageSettings | None = None
    """None: unknown (only endpoints were given); commands that touch disks then say so."""
    netns: str = ""
    """Network namespace (a name under /run/netns, or a path) from which consoles and storage are reached."""


class ContextFile(Struct, frozen=True, kw_only=True):
    """The whole file."""

    current: str = ""
    contexts: dict[str, Context] = {}


def _invoker() -> pwd.struct_passwd | None:
    """The user who called sudo; None when nobody did."""
    if os.geteuid() != 0:
        return None
    uid = os.environ.get("SUDO_UID", "")
    if not uid.isdecimal() or uid == "0":
        return None
    with contextlib.suppress(KeyError, OverflowError):
        return pwd.getpwuid(int(uid))
    return None


def config_path() -> Path:
    """``METASTACK_CONFIG``, else ``metastack/config.toml`` below ``XDG_CONFIG_HOME`` or ``~/.config``."""
    named = os.environ.get(ENV_CONFIG, "")
    if named:
        return Path(named).absolute()
    invoker = _invoker()
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if base and Path(base).is_absolute():
        return Path(base) / "metastack" / "config.toml"
    home = Path(invoker.pw_dir) if invoker else Path(os.path.expanduser("~"))
    return home / ".config" / "metastack" / "config.toml"


# ---------------------------------------------------------------------------------------------------------
# the file


def load(path: Path | None = None) -> ContextFile:
    """The context file; an absent one is empty. Raises :class:`ContextError` naming file and line."""
    import tomllib  # 3 ms, which endpoints in the environment spare

    path = path or config_path()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ContextFile()
    except OSError as error:
        raise ContextError(f"cannot read {path}: {error.strerror}", "check who owns the file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ContextError(f"{path} is not TOML: {error}", "repair the file or move it away") from None
    tables = raw.get("contexts", {})
    contexts: dict[str, Context] = {}
    current = raw.get("current", "")
    if not isinstance(tables, dict) or not isinstance(current, str):
        raise ContextError(f"{path}: current must be a string and contexts a table", "repair the file")
    for name, table in tables.items():
        try:
            contexts[name] = msgspec.convert({**table, "name": name}, Context)
        except (msgspec.ValidationError, TypeError) as error:
            raise ContextError(f"{path}: context {name}: {error}", "repair or delete that table") from None
    return ContextFile(current=current, contexts=contexts)


def save_context(context: Context, select: bool = True) -> Path:
    """Add or replace a context; ``select`` makes it current. Returns the file's path."""
    if not valid_name(context.name):
        raise ContextError(f"context name {context.name!r} is not a DNS label", "use a-z, 0-9 and -")

    def edit(file: ContextFile) -> ContextFile:
        contexts = {**file.contexts, context.name: context}
        return ContextFile(current=context.name if select else file.current, contexts=contexts)

    return _change(edit)


def identity_folder(name: str) -> Path:
    """Where the certificate and the key of a context are."""
    return config_path().parent / "pki" / name


@contextlib.contextmanager
def owned_folder(path: Path) -> Iterator[Path]:
    """A private folder beside the context file, to be written with the rights of the file's owner."""
    try:
        with _as_invoker(config_path()):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield path
    except OSError as error:
        raise ContextError(f"cannot write {path}: {error.strerror}", "check who owns the folder") from None


def remove_context(name: str, back_to: str = "") -> str:
    """Forget a context; one that is not there is no error.

    If it was current, ``back_to`` is afterwards if that exists, and is answered; else none is.
    """
    selected = ""

    def edit(file: ContextFile) -> ContextFile:
        nonlocal selected
        contexts = {key: item for key, item in file.contexts.items() if key != name}
        selected = back_to if file.current == name and back_to in contexts else ""
        return ContextFile(current=selected if file.current == name else file.current, contexts=contexts)

    if config_path().exists():
        _change(edit)
    return selected


def select_context(name: str) -> None:
    """Make a context current."""

    def edit(file: ContextFile) -> ContextFile:
        _existing(file, name)
        return ContextFile(current=name, contexts=file.contexts)

    _change(edit)


def known(name: str) -> Context:
    """A context as the file has it; raises ContextError."""
    return _existing(load(), name)


def _existing(file: ContextFile, name: str) -> Context:
    try:
        return file.contexts[name]
    except KeyError:
        known = ", ".join(sorted(file.contexts)) or "none"
        raise ContextError(
            f"there is no context {name!r} in {config_path()}", f"known contexts: {known}", missing=True
        ) from None


def resolve(name: str = "", endpoints: tuple[str, ...] = ()) -> Context:
    """The context to work with: arguments, then environment, then the file's current one.

    Endpoints given without a context make a nameless one that knows no storage: they must never be mixed with
    the disks of whatever cluster happens to be current.
    """
    name = name or os.environ.get(ENV_CONTEXT, "")
    endpoints = endpoints or tuple(
        part.strip() for part in os.environ.get(ENV_ENDPOINTS, "").split(",") if part.strip()
    )
    if name:
        context = _existing(load(), name)
    elif endpoints:
        context = Context(name="")
    else:
        file = load()
        if not file.current:
            known = ", ".join(sorted(file.contexts))
            raise ContextError(
                "no cluster is named",
                f"choose a context with `metastack context use NAME` (there are: {known})"
                if known
                else "say --endpoint http://HOST:2379, set METASTACK_ENDPOINTS, or start a cluster with "
                "`metastack dev up`; no context exists yet",
            )
        context = _existing(file, file.current)
    store = context.store
    if endpoints:
        store = msgspec.structs.replace(store, endpoints=endpoints)
    root = os.environ.get(ENV_ROOT, "")
    if root:
        store = msgspec.structs.replace(store, root=root)
    return msgspec.structs.replace(context, store=store)


def _change(edit: Any) -> Path:
    import tomli_w

    path = config_path()
    try:
        with _as_invoker(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(path.with_name(path.name + ".lock")):
                file: ContextFile = edit(load(path))
                _replace(path, tomli_w.dumps(_tables(file)))
    except OSError as error:
        raise ContextError(f"cannot write {path}: {error.strerror}", "check who owns the folder") from None
    return path


def _tables(file: ContextFile) -> dict[str, Any]:
    contexts: dict[str, Any] = {}
    for name in sorted(file.contexts):
        table = msgspec.to_builtins(file.contexts[name])
        table.pop("name")
        contexts[name] = table
    return {"current": file.current, "contexts": contexts}


@contextlib.contextmanager
def _as_invoker(path: Path) -> Iterator[None]:
    """Write with the rights of the user behind sudo, unless the file was named explicitly."""
    invoker = _invoker()
    if invoker is None or os.environ.get(ENV_CONFIG):
        yield
        return
    groups = os.getgroups()
    gid = os.getegid()
    os.setgroups(os.getgrouplist(invoker.pw_name, invoker.pw_gid))
    os.setegid(invoker.pw_gid)
    os.seteuid(invoker.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(path: Path, text: str) -> None:
    import tempfile

    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            os.fchmod(out.fileno(), 0o600)
            invoker = _invoker()
            if invoker is not None and os.geteuid() == 0:
                os.fchown(out.fileno(), invoker.pw_uid, invoker.pw_gid)
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
