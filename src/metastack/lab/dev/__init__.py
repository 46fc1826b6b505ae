"""``metastack dev``: a whole cluster on one machine, from real parts in namespaces.

Owns: starting, breaking and removing it. Refuses: clusters that others made. Start reading at ``cluster.py``.
"""
