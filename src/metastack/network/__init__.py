"""The network port: on Linux bridges, and in memory.

Owns: bridges and the addresses behind a MAC. Refuses: making bridges. Start reading at ``linux.py``.
"""
