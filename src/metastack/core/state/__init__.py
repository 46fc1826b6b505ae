"""The cluster as records: keys, their codec, and the state that they add up to.

Owns: reading records and counting them.
Refuses: changing them (core/protocol/).
Start reading at ``cluster_state.py``.
"""
