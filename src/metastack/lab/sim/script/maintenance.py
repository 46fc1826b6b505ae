"""The verb ``maintenance``, for scenarios: a person pauses fences, takeovers and moves.

Owns: the verb. Refuses: the record's rules; that is core/protocol/maintenance.
"""

from __future__ import annotations

from ....core.model import Maintenance
from ....core.protocol.maintenance import begin, end
from ....core.state.cluster_state import seen
from ....core.transaction import Committed
from ..engine.lab import Lab
from .verbs import Undo, fault, nothing


@fault("maintenance", "cluster")
def _maintenance(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A person begins a maintenance of N seconds, or ends it: ``maintenance 40``, ``maintenance off``."""
    entry = lab.cluster.get(lab.keys.maintenance())
    found = seen(Maintenance, entry) if entry is not None else None
    if args == ("off",):
        if found is None:
            return None
        return nothing if isinstance(lab.by_hand(end(lab.keys, found)), Committed) else None
    ttl_s = int(args[0])
    record = Maintenance(by="operator", reason="a switch is replaced", ttl_s=ttl_s)
    change = begin(lab.keys, found, record, lab.cluster.grant(ttl_s))
    return nothing if isinstance(lab.by_hand(change), Committed) else None
