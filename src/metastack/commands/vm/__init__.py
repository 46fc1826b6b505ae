"""VMs: created, changed, placed, explained, waited for, shown.

Owns: validation, one transaction each, and views.
Refuses: starting anything (agent/reconcile/).
Start reading at ``create.py``.
"""
