"""Nodes: labelled, cordoned, drained, removed, shown.

Owns: validation, one transaction each, and views.
Refuses: moving VMs (agent/reconcile/).
Start reading at ``change.py``.
"""
