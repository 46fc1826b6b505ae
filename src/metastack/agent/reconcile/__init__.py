"""One VM at a time: from what is wanted and what is there to the one next step, carried out.

Owns: claims, boots, kills, statuses, and the queue that feeds them.
Refuses: the rule that chooses the step (core/plan.py), and sessions.
Start reading at ``vm_reconciler.py``.
"""
