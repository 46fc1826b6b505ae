"""What must hold in every simulated run: checked after each step and at the end.

Owns: violations.
Refuses: causing them.
Start reading at ``checkers.py``.
"""
