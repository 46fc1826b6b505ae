"""``metastack vm explain``: what every node says to a VM.

Owns: how it is printed. Refuses: explaining (:mod:`metastack.commands.vm.explain`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ..frame import Frame, Output, frame_of, verb
from ..session import with_cluster
from .options import Name, Project, app, short_name, vm_id

if TYPE_CHECKING:
    from metastack.commands.vm.explain import Gate, NodeVerdict, VmExplanation

    from ..output import Column


@verb(app)
def explain(ctx: typer.Context, name: Name, project: Project = "") -> None:
    """Explain the placement of a VM.

    It lists every node, and every reason of a node that cannot take the VM.
    """
    from metastack.commands.vm.explain import explain_vm

    vm, frame = vm_id(name, project), frame_of(ctx)
    view = with_cluster(frame, lambda cluster: explain_vm(cluster, vm))
    if frame.output in (Output.TABLE, Output.WIDE):
        print_explanation(frame, view)
        return
    from ..output import Printer

    printer: Printer[VmExplanation] = Printer(frame.output, [], short_name)
    printer.one(view)


def print_explanation(frame: Frame, view: VmExplanation) -> None:
    """For people: the sentence, what bears on it, and a row for each node."""
    from ..output import Printer, clean, text_of

    print(clean(f"{view.project}/{view.name}: {view.summary}"))
    for key, value in _facts(view):
        print(f"  {key.ljust(13)} {text_of(value)}")
    if view.nodes:
        Printer(frame.output, node_columns(), lambda said: said.node).list(view.nodes)


def _facts(view: VmExplanation) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    if view.node is not None:
        found.append(("claimed", f"by {view.node} at {view.claimed_at or 'an unknown time'}"))
    if view.line is not None:
        found.append(("queue place", view.line))
    found += [("demands", text) for text in view.demands]
    if view.hint is not None:
        honoured = "honoured" if view.hint.honoured else "not honoured"
        found.append(("hint", f"{view.hint.node} by {view.hint.by or 'an unknown scheduler'}, {honoured}"))
    for gate in view.gates:
        found.append(("starts after", f"{gate.vm}, which is {_how(gate)}"))
    for rule in view.rules:
        where = ", ".join(f"{domain} has {_others(count)}" for domain, count in rule.members.items())
        where = where or "no other VM"
        found.append((rule.kind, f"{rule.group} by {rule.topology}: {where}"))
    return found


def _how(gate: Gate) -> str:
    if gate.up:
        return "up" if gate.port is None else f"up, port {gate.port} answers"
    if gate.phase == "running" and gate.port is not None:
        return f"running, but port {gate.port} does not answer yet"
    return gate.phase or "gone"


def _others(count: int) -> str:
    return "1 other" if count == 1 else f"{count} others"


def node_columns() -> list[Column[NodeVerdict]]:
    from ..output import Column

    def answer(said: NodeVerdict) -> str:
        if said.here:
            return "runs it"
        if said.chosen:
            return "chosen"
        return "fits" if said.fits else "does not fit"

    def parts(said: NodeVerdict) -> str:
        return " ".join(f"{part}={value:.3f}" for part, value in said.parts.items())

    return [
        Column("NODE", lambda v: v.node),
        Column("STATE", lambda v: v.state, wide=True),
        Column("ANSWER", answer),
        Column("RANK", lambda v: v.rank),
        Column("SCORE", lambda v: None if v.score is None else f"{v.score:.3f}"),
        Column("PARTS", parts),
        Column("REASONS", lambda v: "; ".join(v.reasons)),
    ]
