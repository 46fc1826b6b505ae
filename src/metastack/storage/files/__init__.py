"""The storage port on a shared folder of qcow2 files.

Owns: images, disks, marks, trash, locks.
Refuses: fencing: a folder cannot shut a node out.
Start reading at ``storage.py``.
"""
