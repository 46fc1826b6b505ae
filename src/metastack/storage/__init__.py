"""The storage port: on Ceph RBD, on a folder of files, and in memory.

Owns: images, disks, marks, the trash, and shutting a node out. Refuses: knowing claims.
Start reading at ``ceph/storage.py``.
"""
