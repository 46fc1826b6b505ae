"""What still fits: nodes lost or added, capacity kept free, and what should move.

Owns: the questions and their answers as records.
Refuses: the placement rules themselves (core/placement/).
Start reading at ``whatif.py``.
"""
