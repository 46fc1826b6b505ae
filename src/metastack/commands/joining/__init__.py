"""Joining: tokens, the answers of ``pki serve``, and the new node's side of it.

Lives here: what a person, a management host and a new node do. Not here: cryptography (``pki/``), the guarded
transactions (``core/protocol/joining.py``). Start reading at :mod:`.answering`.
"""
