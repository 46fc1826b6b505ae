"""Verbs about machines that are copies, and agents where they should not be, for scenarios.

Owns: these verbs. Refuses: what such an agent does; it is the real one.
Rule: a copy is a machine of its own for the judges: what two machines write under one name are two writers.
"""

from __future__ import annotations

from ..engine.host import SimHost
from ..engine.lab import Lab
from .verbs import Undo, fault, host_of


@fault("clone", "node", lasts=True)
def _clone(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A copy of a machine's disk is switched on, as ``n1b``: ``clone n1 [own-address]``.

    Its agent has the settings of the original. ``own-address``: but the storage address that it has itself. At
    the end it is switched off and thrown away.
    """
    original = host_of(lab, args)
    copy = SimHost(lab, f"{original.name}b", 200 + len(lab.hosts))
    copy.node = original.node
    copy.disk = {name: text for name, text in original.disk.items() if name != "lock"}
    if "own-address" not in args:
        copy.copied_address = original.address
    lab.hosts[copy.name] = copy
    copy.start()

    def end() -> None:
        copy.power_cut()
        lab.hosts.pop(copy.name, None)

    return end


@fault("second-agent", "node", lasts=True)
def _second_agent(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """An agent of another name is started on a node's libvirtd, until the end: ``second-agent n2 n9``."""
    host, name = host_of(lab, args), args[1]
    other = SimHost(lab, name, 100 + len(lab.hosts))
    other.address, other.daemon, other.misplaced = host.address, host.hypervisor, True
    lab.hosts[name] = other
    other.start()

    def end() -> None:
        other.power_cut()
        other.daemon.left_by(name)
        lab.hosts.pop(name, None)

    return end
