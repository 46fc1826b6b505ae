"""The storage port on Ceph RBD.

Owns: images, disks, marks, trash, blocklist.
Refuses: knowing claims.
Start reading at ``storage.py``.
"""
