"""The simulated world: virtual clock, hosts, etcd, storage, wire; and running seeds in it.

Owns: time, order and faults of the parts.
Refuses: choosing faults (script/) and judging (judges/).
Start reading at ``lab.py``.
"""
