"""Scripts: what people and faults do to a simulated cluster, random or written by hand.

Owns: the language, its verbs, and the schedules that seeds expand to.
Refuses: the world that it happens in (engine/).
Start reading at ``script.py``.
"""
