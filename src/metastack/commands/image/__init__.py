"""Images: imported, shown, deleted.

Owns: validation, one transaction each, and views.
Refuses: bytes (storage/).
Start reading at ``import_.py``.
"""
