"""What a node says about itself: its alive record, its machine, its health, where it is reached.

Owns: measuring, and the text of the records.
Refuses: acting on any of it.
Start reading at ``node_status.py``.
"""
