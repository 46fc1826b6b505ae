"""Why a certificate, a request or a token is refused: one name for each reason."""

from __future__ import annotations

from enum import StrEnum


class Why(StrEnum):
    """The reason, as programs compare it."""

    # Files and certificates.
    NOT_READABLE = "not_readable"
    NOT_PEM = "not_pem"
    OPEN_TO_OTHERS = "open_to_others"
    EXISTS = "exists"
    KEY_MISMATCH = "key_mismatch"
    WEAK_KEY = "weak_key"
    NOT_A_CA = "not_a_ca"
    BAD_NAME = "bad_name"
    BAD_HOST = "bad_host"
    BAD_LIFE = "bad_life"
    OTHER_CA = "other_ca"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    REVOKED = "revoked"
    UNKNOWN = "unknown"
    # Requests and tokens.
    BAD_REQUEST = "bad_request"
    NOT_A_TOKEN = "not_a_token"
    DAMAGED = "damaged"
    NEWER_TOKEN = "newer_token"
    WRONG_SECRET = "wrong_secret"
    OTHER_NAME = "other_name"
    USED = "used"
    CLOCK = "clock"
    OTHER_ADDRESS = "other_address"
    ALIVE = "alive"
    ETCD_USER = "etcd_user"
    STORAGE_USER = "storage_user"
    NOT_ANSWERED = "not_answered"


class Refusal(Exception):
    """What was asked is refused: ``object`` is what it is about, ``hint`` the next step."""

    def __init__(self, why: Why, object: str, message: str, hint: str = "") -> None:
        super().__init__(f"{object}: {message}")
        self.why = why
        self.object = object
        self.message = message
        self.hint = hint
