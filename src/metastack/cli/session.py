"""One invocation: which cluster, the connection to it, progress, questions, and errors.

Owns: stderr and the exit status. Refuses: data on stderr, progress on stdout.
Rule: every failure of a command leaves as one Problem, with an exit status of :data:`EXIT`.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Final, TypeVar

from .frame import Frame, Output
from .output import clean, paint
from .streams import printable

if TYPE_CHECKING:
    from metastack.commands.cluster.identity import EtcdAccounts, MemberAnswer
    from metastack.commands.problem import Problem
    from metastack.commands.request import Cluster
    from metastack.commands.vm.views import VmView
    from metastack.contexts import Context
    from metastack.pki.folder import CaFolder
    from metastack.ports import Storage
    from metastack.settings import StoreSettings

T = TypeVar("T")

CONNECT_S: Final = 4.0
"""Longest time that one etcd request may take; unreachable is told within 5 s."""

CLOSE_S: Final = 10.0
"""Longest time that closing the storage may take, seconds."""

EXIT: Final = {
    "failed": 1,
    "usage": 2,
    "not_found": 3,
    "conflict": 4,
    "timeout": 5,
    "denied": 6,
    "unreachable": 7,
}


def context_of(frame: Frame) -> Context:
    """The context to work with."""
    from metastack.contexts import resolve

    context = resolve(frame.context, frame.endpoints)
    if not context.store.endpoints:
        from metastack.commands.problem import usage

        raise usage(f"context {context.name}", "names no etcd endpoint", "give --endpoint http://HOST:2379")
    return context


def with_cluster(frame: Frame, work: Callable[[Cluster], Awaitable[T]]) -> T:
    """Run something against the cluster, in an event loop of its own."""
    import asyncio

    context = context_of(frame)
    return asyncio.run(_connected(context, work, CONNECT_S))


async def _connected(context: Context, work: Callable[[Cluster], Awaitable[T]], total_s: float) -> T:
    from metastack.commands.problem import from_store, usage
    from metastack.commands.request import Cluster
    from metastack.core.state.keys import Keys
    from metastack.ports import Broken, Refused, Unavailable
    from metastack.store.etcd.channel import be_quiet
    from metastack.store.etcd.store import EtcdStore

    be_quiet()
    try:
        keys = Keys(context.store.root)
    except ValueError as error:
        raise usage("root", str(error), "METASTACK_ROOT is such as /metastack") from None
    _refuse_closed_sockets(context.store.endpoints)
    try:
        try:
            store = EtcdStore(context.store, total_timeout_s=total_s)
        except Refused as error:
            raise usage("", str(error)) from None
        try:
            return await work(Cluster(store, keys))
        finally:
            await store.close()
    except (Unavailable, Refused, Broken) as error:
        raise _own_certificate(context.store, error) or from_store(error, context.store.endpoints) from error


def _own_certificate(store: StoreSettings, error: Exception) -> Problem | None:
    """The flaw of our own certificate, if that is why etcd is not reached."""
    from metastack.commands.problem import Code, Problem
    from metastack.pki.own import own_flaw
    from metastack.ports import Unavailable

    if not isinstance(error, Unavailable) or (flaw := own_flaw(store.ca, store.cert, store.key)) is None:
        return None
    return Problem(Code.DENIED, flaw.object, flaw.message, flaw.hint)


def with_settings(store: StoreSettings, work: Callable[[Cluster], Awaitable[T]]) -> T:
    """Run something against the cluster of these settings, which no context has."""
    import asyncio

    from metastack.contexts import Context

    return asyncio.run(_connected(Context(name="", store=store), work, CONNECT_S))


def serve_pki(frame: Frame, ca: CaFolder, user: str, keyring: str) -> None:
    """Answer tokens and new nodes until SIGTERM or SIGINT, as the context's holder of etcd's role ``root``."""
    import asyncio
    import signal

    import structlog
    from msgspec.structs import replace

    from metastack.commands.joining.serving import PkiServer, desk_of
    from metastack.commands.problem import usage
    from metastack.commands.request import whoami
    from metastack.storage.node_users import node_users
    from metastack.store.etcd.users import EtcdUsers
    from metastack.telemetry import logs

    context = context_of(frame)
    if context.storage is None:
        raise usage(f"context {context.name}", "names no storage, which new nodes have to know")
    storage = replace(
        context.storage, user=user or context.storage.user, keyring=keyring or context.storage.keyring
    )
    logs.configure("auto", "info", whoami().rpartition("@")[2], "metastack-pki")

    async def work(cluster: Cluster) -> None:
        accounts, users = EtcdUsers(context.store, total_timeout_s=CONNECT_S), node_users(storage)
        server = PkiServer(desk_of(cluster, ca, accounts, users, storage, context.store.endpoints))
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        log = structlog.get_logger()
        log.info("pki_serving", ca=ca.authority.fingerprint, endpoints=list(context.store.endpoints))
        try:
            await server.run(stop)
        finally:
            await accounts.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await users.close()

    asyncio.run(_connected(context, work, CONNECT_S))


def with_accounts(store: StoreSettings, work: Callable[[Cluster, EtcdAccounts], Awaitable[T]]) -> T:
    """Run something against a cluster and etcd's users and roles, with root's certificate in the settings."""
    import asyncio

    from metastack.contexts import Context
    from metastack.store.etcd.users import EtcdUsers

    async def both(cluster: Cluster) -> T:
        users = EtcdUsers(store, total_timeout_s=CONNECT_S)
        try:
            return await work(cluster, users)
        finally:
            await users.close()

    return asyncio.run(_connected(Context(name="", store=store), both, CONNECT_S))


def members_of(store: StoreSettings) -> Sequence[MemberAnswer]:
    """What each member of etcd answers to this certificate; never raises for one that is down."""
    import asyncio

    from metastack.commands.problem import usage
    from metastack.ports import Refused
    from metastack.store.etcd.channel import be_quiet
    from metastack.store.etcd.store import EtcdStore

    async def ask() -> Sequence[MemberAnswer]:
        found = EtcdStore(store, total_timeout_s=CONNECT_S)
        try:
            return await found.status()
        finally:
            await found.close()

    be_quiet()
    try:
        return asyncio.run(ask())
    except Refused as error:
        raise usage("", str(error)) from None


def _refuse_closed_sockets(endpoints: tuple[str, ...]) -> None:
    """Say at once that this user may not talk to etcd, when no endpoint is open to it."""
    import os

    from metastack.commands.problem import Code, Problem

    paths = [endpoint.removeprefix("unix:") for endpoint in endpoints if endpoint.startswith("unix:/")]
    if len(paths) < len(endpoints):
        return
    for path in paths:
        try:
            os.stat(path)
        except PermissionError:
            continue
        except OSError:
            return  # it is not there: etcd does not run, which is another story
        if os.access(path, os.R_OK | os.W_OK):
            return
    raise Problem(
        Code.DENIED,
        "etcd",
        f"permission denied on its socket {', '.join(paths)}",
        f"run with sudo: `{sudo_line()}`",
    )


def with_storage(
    frame: Frame,
    work: Callable[[Cluster, Storage], Awaitable[T]],
    object: str,
    user: str = "",
    keyring: str = "",
) -> T:
    """Run something against the cluster and its storage, inside the context's network namespace.

    The connection to etcd is made first and from outside. ``user`` and ``keyring`` replace the context's.
    """
    import asyncio

    from msgspec.structs import replace

    from metastack.commands.problem import Code, usage

    context = context_of(frame)
    settings = context.storage
    if settings is None:
        raise usage(
            object,
            "the storage is unknown: endpoints alone do not name it",
            "use a context: `metastack context list`",
        )
    settings = replace(settings, user=user or settings.user, keyring=keyring or settings.keyring)

    async def both(cluster: Cluster) -> T:
        from metastack.commands.problem import from_storage
        from metastack.ports import Refused, Unavailable
        from metastack.storage.choose import build

        await cluster.config()
        _hush_logs()
        with inside_namespace(context.netns):
            try:
                storage = build(settings)
                await storage.open()
            except (Unavailable, Refused) as error:
                problem = from_storage(error, object)
                if problem.code is Code.DENIED and (user or keyring):
                    problem.hint = (
                        f"--user and --keyring go together: `ceph auth get client.{settings.user}` prints what "
                        f"{settings.keyring or 'the file'} has to hold"
                    )
                raise problem from error
            try:
                return await work(cluster, storage)
            finally:
                # A call that hangs in a thread must not hold the program: leaving ends the thread.
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await storage.close()

    return asyncio.run(_connected(context, both, CONNECT_S))


def inside_namespace(netns: str) -> AbstractContextManager[None]:
    """Step into the network namespace of a one-machine cluster; an empty name is the one we are in."""
    if not netns:
        return nullcontext()
    from importlib import import_module

    step: Callable[[str], AbstractContextManager[None]] = import_module("metastack.lab.netns").inside
    return step(netns)


# ---------------------------------------------------------------------------------------------------------
# stderr


def _hush_logs() -> None:
    """The storage adapters log as an agent's do; here only warnings and worse are of use, as plain lines."""
    import logging

    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        processors=[lambda _, level, event: f"{level}: " + clean(" ".join(str(v) for v in event.values()))],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def note(frame: Frame, text: str) -> None:
    """A line of progress: not with machine output, whose stderr holds an error or nothing."""
    if frame.output in (Output.TABLE, Output.WIDE):
        sys.stderr.write(clean(text) + "\n")
        sys.stderr.flush()


def interrupted(frame: Frame, object: str, stays: str) -> None:
    """After Ctrl-C: what stays. Also with machine output, for no other word of it comes."""
    if frame.output is Output.JSON:
        _json_error("interrupted", object, f"interrupted; {stays}")
    else:
        sys.stderr.write(clean(f"{object}: interrupted; {stays}") + "\n")
    sys.stderr.flush()


def vm_progress(frame: Frame) -> Callable[[VmView], None]:
    """Progress of a wait."""

    def told(view: VmView) -> None:
        where = f" on {view.node}" if view.node else ""
        why = f": {view.message}" if view.message else ""
        note(frame, f"{view.id}: {view.phase or 'broken'}{where}{why}")

    return told


def confirm(question: str, yes: bool) -> None:
    """Ask before destroying; without a terminal only ``--yes`` will do."""
    from metastack.commands.problem import Code, Problem, usage

    if yes:
        return
    if not sys.stdin.isatty():
        raise usage("", f"{question} There is no terminal to answer on", "confirm with --yes")
    sys.stderr.write(f"{clean(question)} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Problem(Code.FAILED, "", "cancelled: not confirmed")


def report(problem: Problem, output: Output) -> int:
    """Print a problem; the exit status."""
    if output is Output.JSON:
        message = "; ".join([problem.message, *map(str, problem.others)])
        _json_error(problem.code.value, problem.object, message, problem.hint)
    else:
        head = paint("error:", "failed", sys.stderr)
        for one in (problem, *problem.others):
            sys.stderr.write(f"{head} {clean(str(one))}\n")
            if one.hint:
                sys.stderr.write(f"  {clean(one.hint)}\n")
    sys.stderr.flush()
    return EXIT[problem.code.value]


def _json_error(code: str, object: str, message: str, hint: str = "") -> None:
    import json

    error = {"code": code, "object": object or None, "message": message, "hint": hint or None}
    sys.stderr.write(printable(json.dumps({"error": error}, ensure_ascii=False)) + "\n")


@contextmanager
def size_of(option: str) -> Iterator[None]:
    """Turn a size that does not parse into a usage error that names the option."""
    from metastack.commands.problem import usage
    from metastack.core.quantity import InvalidSize

    try:
        yield
    except InvalidSize as error:
        raise usage(option, str(error)) from None


def sudo_line() -> str:
    """This very command through sudo."""
    import shlex

    return "sudo " + shlex.join(sys.argv)
