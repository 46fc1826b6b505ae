"""Fencing: lost nodes, and nodes whose storage is silent, are shut out of the storage.

Owns: when this node fences another, and the watch over its own storage.
Refuses: the transactions (core/protocol/fences.py) and the block itself (storage/).
Start reading at ``fencer.py``.
"""
