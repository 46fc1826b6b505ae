"""The protocol: every guarded transaction that agents and commands write, with its safety argument.

Owns: what is compared and written.
Refuses: when to write it (core/plan.py), and any I/O.
Start reading at ``claims.py``. In its arguments "I" is the node whose session commits the transaction.
"""
