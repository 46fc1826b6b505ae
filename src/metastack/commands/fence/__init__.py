"""Fences as people ask for them and see them.

Owns: validation, one transaction each, and views.
Refuses: carrying a fence out (agent/fencing/).
Start reading at ``requests.py``.
"""
