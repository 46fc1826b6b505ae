"""The simulated world: virtual clock, hosts, etcd, storage, wire and the operator.

Owns: time, order and faults of the parts.
Refuses: choosing faults (script/) and judging (judges/).
Start reading at ``lab.py``.
"""
