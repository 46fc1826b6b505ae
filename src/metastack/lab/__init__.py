"""Tools that ship: the one-machine cluster, chaos and the simulator.

Owns: everything that plays a cluster.
Refuses: being imported by the product, but for the verbs that mount it by name.
Start reading at ``dev/cluster.py``.
"""
