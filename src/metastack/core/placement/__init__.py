"""Which node should take a VM: filter, score, order, explain. Nodes and CLI ask one pure function.

Owns: the only implementation of "may this node take it", "who tries first" and "what if".
Refuses: clocks, randomness, anything that two agents at one revision could answer differently.

=============== ===============================================================================
nodes           what a node is and may promise
filters         every reason why not, in words
groups          affinity, anti-affinity, spread by labels; the group versions that make them hard
scores          how good a node is for a VM, part by part
preferences     what one VM likes that another of its shape does not
node_order      nodes for one shape of VM, best first, kept up to date node by node
start_order     which VMs wait for a node, and which start after others
penalties       nodes that could not start a VM
misses          nodes that missed their turns
delays          how long a rank waits for those before it
pending_queue   a VM that waits, and its place in the line
engine          every VM in its place, every waiting VM with the nodes that should take it
explain         what every node says to a VM, and why
hypothetical    an engine over another world: nodes lost, nodes added, specs not written yet
whatif          does everything still fit then, and which VM would be where
evacuation      which VMs should leave a node, and whether another node would take them
objective       how good all places together are
schedule        what a scheduler would hint: places for VMs that will wait together
balance         which running VMs should move so that all are better placed
=============== ===============================================================================
"""

from .engine import HEAD, PlacementEngine
from .evacuation import Departure, departures, elsewhere, leaving, taker
from .explain import GroupRule, Verdict, explain, group_rules
from .filters import taint_text
from .hypothetical import suppose, with_claim, with_specs
from .nodes import NodeView, Successors, node_state, node_view, node_views, promised, ring
from .pending_queue import PendingVm
from .start_order import owned, unowned, waiting
from .whatif import Move, Outcome, first_unfitting_loss, going, nowhere, whatif

__all__ = [
    "HEAD",
    "Departure",
    "GroupRule",
    "Move",
    "NodeView",
    "Outcome",
    "PendingVm",
    "PlacementEngine",
    "Successors",
    "Verdict",
    "departures",
    "elsewhere",
    "explain",
    "first_unfitting_loss",
    "going",
    "group_rules",
    "leaving",
    "node_state",
    "node_view",
    "node_views",
    "nowhere",
    "owned",
    "promised",
    "ring",
    "suppose",
    "taint_text",
    "taker",
    "unowned",
    "waiting",
    "whatif",
    "with_claim",
    "with_specs",
]
