"""What people request, as verbs: written into the desired state at that moment, whatever the cluster is like.

Owns: the verbs. Refuses: knowing what a spec is; that is the operator's.
"""

from __future__ import annotations

from typing import Final

from ..engine.lab import Lab
from .verbs import FAULTS, Fault, Undo, nothing

REQUEST_VERBS: Final = (
    *("want", "delete", "recreate", "off", "force-off", "on", "restart", "force-restart", "pause", "resume"),
    *("pin", "move", "answers", "cordon", "uncordon", "drain", "undrain", "zone"),
)


def _request_verb(verb: str) -> None:
    def apply(lab: Lab, args: tuple[str, ...]) -> Undo | None:
        person = lab.operator
        match verb:
            case "force-off":
                done = person.off(args[0], force=True)
            case "force-restart":
                done = person.restart(args[0], force=True)
            case "undrain":
                done = person.drain(args[0], False)
            case "uncordon":
                done = person.cordon(args[0], False)
            case _:
                done = getattr(person, verb)(*args)
        return nothing if done else None

    scope = "cluster" if "cordon" in verb or "drain" in verb or verb == "zone" else "vm"
    FAULTS[verb] = Fault(scope, False, apply, f"A person's request: {verb}.")


for _verb in REQUEST_VERBS:
    _request_verb(_verb)
