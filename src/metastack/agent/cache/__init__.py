"""The agent's view of the cluster: the informer's copy of etcd, and what changed in it.

Owns: Reading and remembering etcd's records.
Refuses: deciding, and writing claims.
Start reading at ``informer.py``.
"""
