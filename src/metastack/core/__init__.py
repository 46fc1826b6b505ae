"""The pure part: records, the protocol's transactions, the rulebook, placement. No I/O, no clock.

Owns: what is decided and written. Refuses: every import but the standard library and msgspec.
Start reading at ``plan.py``, then ``protocol/claims.py``.
"""
