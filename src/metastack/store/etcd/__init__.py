"""The store port on etcd.

Owns: channels, transactions, watch streams, leases, errors.
Refuses: records (core/).
Start reading at ``store.py``.
"""
