"""Playing scripts: one run, many seeds, a scenario against its log, the cells of coverage, shrinking a failure.

Owns: joining the world (engine/), what happens in it (script/) and what must hold (judges/).
Refuses: rules of its own about the world or the product.
Start reading at ``play.py``.
"""
