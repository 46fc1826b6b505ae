"""The node daemon: watches, decides alone, claims, and runs VMs.

Owns: everything that a compute node does. Refuses: adapters, which ``main.py`` joins to it.
Start reading at ``agent.py``, then ``reconcile/vm_reconciler.py`` and ``session/session.py``.
"""
