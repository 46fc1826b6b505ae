"""Reconciliation of one VM: from its spec and its domains to one next step, which is carried out.

Owns: claims, boots, kills, statuses, and the queue that feeds them.
Refuses: the rule that chooses the step (core/plan.py), and sessions.
Start reading at ``vm_reconciler.py``.
"""
