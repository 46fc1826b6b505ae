"""The session: from a start without rights to a node that is ready, and back.

Owns: the lease, the way back after a loss, whose storage and libvirt these are.
Refuses: VMs, but for killing what a session that ended has left.
Start reading at ``session.py``.
"""
