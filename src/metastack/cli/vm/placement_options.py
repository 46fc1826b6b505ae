"""The options that say where a VM may run and in which order it starts, shared by the verbs that take them.

Owns: their names, metavariables and help.
Refuses: their grammar (:mod:`metastack.commands.vm.placement_options`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..complete import node_names, vm_names

Node = Annotated[
    str | None, typer.Option("--node", metavar="N", autocompletion=node_names, help="Pin to this node.")
]
NodeSelector = Annotated[
    list[str] | None,
    typer.Option("--node-selector", metavar="K=V", help="Required label of the node, repeatable."),
]
RequireLabel = Annotated[
    list[str] | None,
    typer.Option(
        "--require-label",
        metavar="EXPR",
        help="Required node label: K, !K, K=V1,V2, K!=V1,V2, K>N or K<N; repeatable.",
    ),
]
Toleration = Annotated[
    list[str] | None,
    typer.Option("--toleration", metavar="KEY[=VALUE]", help="Tolerate this taint; * for all, repeatable."),
]
Affinity = Annotated[
    list[str] | None,
    typer.Option(
        "--affinity",
        metavar="LABELS[@TOPOLOGY][:preferred[=W]]",
        help="Run near VMs with these labels, such as app=web@rack, repeatable.",
    ),
]
AntiAffinity = Annotated[
    list[str] | None,
    typer.Option(
        "--anti-affinity",
        metavar="LABELS[@TOPOLOGY][:preferred[=W]]",
        help="Run apart from VMs with these labels, such as app=db@zone, repeatable.",
    ),
]
Spread = Annotated[
    list[str] | None,
    typer.Option(
        "--spread",
        metavar="LABELS@TOPOLOGY[:SKEW][:preferred[=W]]",
        help="Spread VMs with these labels evenly, such as app=web@zone, repeatable.",
    ),
]
Arch = Annotated[
    str | None, typer.Option("--arch", metavar="A", help="Processor architecture, such as x86_64.")
]
CpuFeature = Annotated[
    list[str] | None, typer.Option("--cpu-feature", metavar="F", help="Required processor flag, repeatable.")
]
Priority = Annotated[
    int | None, typer.Option("--priority", metavar="N", help="Start priority: higher starts first.")
]
StartAfter = Annotated[
    list[str] | None,
    typer.Option(
        "--start-after", metavar="VM", autocompletion=vm_names, help="Start after this VM is up, repeatable."
    ),
]
ReadyPort = Annotated[
    int | None,
    typer.Option("--ready-port", metavar="PORT", help="TCP port that answers once the VM is up."),
]
IgnoreSpare = Annotated[
    bool,
    typer.Option("--ignore-spare", help="Use capacity that is reserved for the loss of nodes (spare_nodes)."),
]
