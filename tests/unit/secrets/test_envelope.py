"""The envelope: what opens, and what of hostile ciphertext does not."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from metastack.core.model import Secret
from metastack.core.state.codec import Unreadable, decode, encode
from metastack.secrets.envelope import MAX_BYTES, OVERHEAD, NoKey, Unopened, seal, unseal
from metastack.secrets.keyring import Keyring, new_key

OLD = Keyring((new_key(datetime.now(UTC)),))
RING = Keyring((*OLD.keys, new_key(datetime.now(UTC), OLD)))
HERE, THERE = "/metastack/secrets/a", "/metastack/secrets/b"
VALUE = b"a value that nobody should see"


@given(st.binary(min_size=1, max_size=300))
def test_what_was_sealed_opens(value: bytes) -> None:
    assert unseal(RING, HERE, decode(Secret, encode(seal(RING, HERE, value)))) == value


@pytest.mark.parametrize("size", [1, MAX_BYTES])
def test_the_least_and_the_most_are_sealed(size: int) -> None:
    assert unseal(RING, HERE, seal(RING, HERE, bytes(size))) == bytes(size)


@pytest.mark.parametrize("size", [0, MAX_BYTES + 1])
def test_nothing_and_too_much_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="1 to 65536 bytes"):
        seal(RING, HERE, bytes(size))


def test_the_newest_key_encrypts_and_older_ones_open() -> None:
    assert seal(RING, HERE, VALUE).key_id == RING.newest.id
    assert unseal(RING, HERE, seal(OLD, HERE, VALUE)) == VALUE


def test_a_lacking_key_is_named_by_its_id() -> None:
    with pytest.raises(NoKey, match=RING.newest.id):
        unseal(OLD, HERE, seal(RING, HERE, VALUE))


def test_equal_values_have_different_ciphertexts() -> None:
    one, other = seal(RING, HERE, VALUE), seal(RING, HERE, VALUE)
    assert one.value != other.value and one.data_key != other.data_key


def test_a_value_is_not_in_its_record() -> None:
    assert VALUE not in encode(seal(RING, HERE, VALUE))


A, B = seal(RING, HERE, VALUE), seal(RING, HERE, b"x" * len(VALUE))
HOSTILE = {
    "another name's": seal(RING, THERE, VALUE),
    "another root's": seal(RING, "/other/secrets/a", VALUE),
    "another key's id": replace(A, key_id=OLD.newest.id),
    "the value of another": replace(A, value=B.value),
    "the data key of another": replace(A, data_key=B.data_key),
    "both swapped": replace(A, data_key=A.value[:60], value=A.data_key),
    "no data key": replace(A, data_key=b""),
    "no value": replace(A, value=b""),
    "only the overhead": replace(A, value=A.value[:OVERHEAD]),
    "a value cut short": replace(A, value=A.value[:-1]),
    "a value made longer": replace(A, value=A.value + b"\0"),
    "a data key cut short": replace(A, data_key=A.data_key[:-1]),
    "a huge value": replace(A, value=A.value + bytes(MAX_BYTES)),
    "a huge data key": replace(A, data_key=A.data_key + bytes(1 << 20)),
    "noise": replace(A, data_key=os.urandom(60), value=os.urandom(60)),
    "no key id": replace(A, key_id=""),
    "a huge key id": replace(A, key_id="0" * (1 << 20)),
    "a key id with control characters": replace(A, key_id="\x1b[2J\n"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_records_do_not_open(what: str) -> None:
    with pytest.raises(Unopened) as caught:
        unseal(RING, HERE, HOSTILE[what])
    said = str(caught.value)
    assert said.isprintable() and len(said) < 200 and VALUE.decode() not in said


@given(st.integers(0, len(A.value) * 8 - 1), st.booleans())
def test_one_flipped_bit_is_noticed(bit: int, of_value: bool) -> None:
    field = "value" if of_value else "data_key"
    raw = bytearray(getattr(A, field))
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    with pytest.raises(Unopened):
        unseal(RING, HERE, replace(A, **{field: bytes(raw)}))


@pytest.mark.parametrize("text", ["no base64!", "YQ", 7, None, ["YQ=="]])
def test_bytes_that_are_no_base64_are_unreadable(text: object) -> None:
    import msgspec

    raw = msgspec.json.encode({"key_id": "k", "data_key": "YQ==", "value": text})
    with pytest.raises(Unreadable):
        decode(Secret, raw)
