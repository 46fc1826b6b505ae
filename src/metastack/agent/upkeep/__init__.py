"""Upkeep beside the VMs: sweeping, removal, consoles, systemd, garbage collection.

Owns: work that may wait.
Refuses: anything that a claim or a fence depends on.
Start reading at ``sweeper.py``.
"""
