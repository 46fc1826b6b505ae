"""The store port in memory: passes the same contract suite as etcd.

Owns: revisions, leases, watches, compaction.
Refuses: being kinder than etcd.
Start reading at ``store.py``.
"""
