"""Scripts: what people and faults do to a simulated cluster, random or written by hand.

Owns: verbs, schedules, scenarios, coverage, shrinking.
Refuses: the world that it happens in (engine/).
Start reading at ``script.py``.
"""
