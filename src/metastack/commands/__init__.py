"""What people ask for: validation, and one transaction each.

Owns: every request that is written, and the views that are read. Refuses: printing, and acting on hosts. Start
reading at ``request.py``, then ``vm/create.py``.
"""
