"""The secret: a value that etcd holds encrypted.

Rule: only ciphertext and what anybody may know of it stands here; ``metastack.secrets`` alone opens it.
"""

from __future__ import annotations

from .numbers import Record


class Secret(Record, frozen=True, kw_only=True):
    """``secrets/<name>``: a value under a data key of its own, and that under a key of the keyring."""

    key_id: str
    """Key of the keyring that opens ``data_key``."""
    data_key: bytes
    """Nonce and ciphertext of the data key."""
    value: bytes
    """Nonce and ciphertext of the value."""
    at: str = ""
    """When the value was put, RFC 3339 UTC; a rotation keeps it."""
    by: str = ""
    reason: str = ""
    request_id: str = ""
