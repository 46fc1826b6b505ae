"""Which node should take a VM: filter, score, order, explain. One pure answer for nodes, CLI and web.

Owns: the only implementation of "may this node take it", "who tries first" and "what if".
Refuses: clocks, randomness, anything that two agents at one revision could answer differently.

============ ==================================================================================
nodes        what a node is and may promise
filters      every reason why not, in words
groups       affinity, anti-affinity, spread by labels; the tokens that make them hard
scores       how good a place, part by part
preferences  what one VM likes that another of its shape does not
order        nodes for one shape of VM, best first, kept up to date node by node
gates        who starts after whom
misses       nodes that are alive but deaf
board        every VM in its place, every waiting VM with those who should take it
explain      what every node says to a VM, and why
whatif       the same board in a world that is not: nodes lost, nodes added
============ ==================================================================================
"""

from .board import HEAD, Board, Waiting, unanswered, waiting
from .explain import Verdict, explain
from .filters import taint_text
from .nodes import NodeView, node_state, node_view, node_views, promised, ring, successors
from .whatif import Move, Outcome, whatif, without_room

__all__ = [
    "HEAD",
    "Board",
    "Move",
    "NodeView",
    "Outcome",
    "Verdict",
    "Waiting",
    "explain",
    "node_state",
    "node_view",
    "node_views",
    "promised",
    "ring",
    "successors",
    "taint_text",
    "unanswered",
    "waiting",
    "whatif",
    "without_room",
]
