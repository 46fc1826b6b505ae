"""A sealed secret opens with one key, for one purpose, and unchanged."""

from __future__ import annotations

import pytest

from metastack.pki.authority import new_key
from metastack.pki.refusal import Refusal
from metastack.pki.sealed import seal, unseal

KEY = new_key()
SEALED = seal(b"secret", KEY.public_key(), "n1")


def test_its_receiver_opens_it() -> None:
    assert unseal(SEALED, KEY, "n1") == b"secret"
    assert "secret" not in SEALED
    assert seal(b"secret", KEY.public_key(), "n1") != SEALED


@pytest.mark.parametrize(
    ("text", "key", "about"),
    [
        (SEALED, new_key(), "n1"),
        (SEALED, KEY, "n2"),
        (SEALED[:-4] + "AAA=", KEY, "n1"),
        ("A" + SEALED[1:], KEY, "n1"),
        ("", KEY, "n1"),
        ("a.b", KEY, "n1"),
        (SEALED.rsplit(".", 1)[0] + ".", KEY, "n1"),
    ],
)
def test_nothing_else_opens_it(text: str, key: object, about: str) -> None:
    with pytest.raises(Refusal):
        unseal(text, key, about)  # type: ignore[arg-type]
