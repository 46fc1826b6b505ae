"""Reports of a node about itself: its alive record, its machine, its health, its addresses.

Owns: measuring, and the text of the records.
Refuses: acting on any of it.
Start reading at ``node_status.py``.
"""
