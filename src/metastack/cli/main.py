"""``metastack``: the entry point.

Owns: the list of nouns, and turning whatever happens into one of the exit statuses.
Refuses: importing any noun before it is called. Rule: with ``-o json`` every error is one JSON object on
stderr, also those that the parser finds.

Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 5 timeout, 6 denied, 7 etcd unreachable;
130 and 141 as shells have them: interrupted, and the reader of the output has gone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from .frame import Frame, Lazy, NoReader, Output, Root
from .streams import CannotWrite, prepare

Root.nouns = {
    "vm": Lazy("metastack.cli.vm", "Virtual machines: create, run, inspect, delete."),
    "node": Lazy("metastack.cli.node", "Compute nodes: inspect, label, cordon, drain, fence."),
    "fence": Lazy("metastack.cli.fence", "Fences: nodes that were blocked from the storage."),
    "image": Lazy("metastack.cli.image", "Images that disks are cloned from."),
    "project": Lazy("metastack.cli.project", "Projects: VM names are unique within one."),
    "cluster": Lazy("metastack.cli.cluster", "The cluster: its storage, upgrades, restores of etcd."),
    "pki": Lazy("metastack.cli.pki", "Certificates: issue, renew, list, revoke."),
    "secret": Lazy("metastack.cli.secret", "Secrets: values that etcd holds encrypted."),
    "config": Lazy("metastack.cli.config", "Settings of the cluster, stored in etcd."),
    "context": Lazy("metastack.cli.context", "Clusters that this machine knows."),
    "status": Lazy("metastack.cli.status", "Show whether the cluster is healthy."),
    "whatif": Lazy("metastack.cli.whatif", "Predict the placement with nodes lost or added."),
    "balance": Lazy("metastack.cli.balance", "Plan moves of running VMs that improve the placement."),
    "events": Lazy("metastack.cli.events", "Audit log: every change, by whom, when and why."),
    "doctor": Lazy("metastack.cli.doctor", "Find problems and show how to repair them."),
    "version": Lazy("metastack.cli.version", "This program's version."),
    "agent": Lazy("metastack.agent.cli", "The node daemon."),
    "scheduler": Lazy("metastack.scheduler.cli", "The optional scheduler: placement hints for pending VMs."),
    "dev": Lazy("metastack.lab.dev.cli", "Development cluster on this machine."),
    "sim": Lazy("metastack.lab.sim.cli", "Simulator: clusters under random faults."),
}

root = typer.Typer(name="metastack", cls=Root, no_args_is_help=True, rich_markup_mode=None)


def _version(wanted: bool) -> None:
    if wanted:
        from metastack import __version__

        print(__version__)
        raise typer.Exit


@root.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """MetaStack: VMs on many nodes, without a master."""


def main() -> NoReturn:
    """Run the command line and leave.

    At once: every command has closed what it opened, and taking the interpreter apart would cost 20 to 50 ms.
    """
    prepare()
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _no_reader()
    except CannotWrite as error:
        status = status or _failed(error, _wanted(Frame(), sys.argv[1:]))
    sys.stderr.flush()
    os._exit(status)


def run(argv: Sequence[str]) -> int:
    """Run one command; its exit status."""
    frame = Frame()
    try:
        answer = get_command(root).main(list(argv), prog_name="metastack", standalone_mode=False, obj=frame)
        return answer if isinstance(answer, int) else 0
    except NoReader:
        _no_reader()
        return 141
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _failed(error, _wanted(frame, argv))


def _no_reader() -> None:
    """The reader of the output has gone: nothing more is written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _wanted(frame: Frame, argv: Sequence[str]) -> Output:
    """The output format, also when parsing failed before it was reached."""
    for n, word in enumerate(argv):
        if word in ("-o", "--output"):
            value = argv[n + 1] if n + 1 < len(argv) else ""
        elif word.startswith("--output="):
            value = word.removeprefix("--output=")
        elif word.startswith("-o") and not word.startswith("--"):
            value = word[2:].removeprefix("=")
        else:
            continue
        if value in list(Output):
            return Output(value)
    return frame.output


def _failed(error: Exception, output: Output) -> int:
    """Print an error; its exit status."""
    from metastack.commands.problem import Code, Problem, usage
    from metastack.contexts import ContextError

    from .session import report

    if isinstance(error, Problem):
        return report(error, output)
    if isinstance(error, CannotWrite):
        return report(Problem(Code.FAILED, "", f"the output cannot be written: {error}"), output)
    if isinstance(error, ContextError):
        code = Code.NOT_FOUND if error.missing else Code.USAGE
        return report(Problem(code, "context", error.message, error.hint), output)
    if isinstance(error, TyperException):
        ctx = getattr(error, "ctx", None)
        where = ctx.command_path if ctx is not None else "metastack"
        return report(usage("", error.format_message(), f"`{where} --help` shows the usage"), output)
    if os.environ.get("METASTACK_TRACEBACK"):
        raise error
    told = Problem(
        Code.FAILED,
        "",
        f"{type(error).__name__}: {error}",
        "this is a bug; set METASTACK_TRACEBACK=1 to print the traceback and report it",
    )
    return report(told, output)


if __name__ == "__main__":
    main()
