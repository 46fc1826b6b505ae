"""Join tokens: encoded, parsed, and each refusal by its name."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from msgspec.structs import replace

from metastack.pki import tokens
from metastack.pki.authority import Authority, make_authority, new_key
from metastack.pki.refusal import Refusal, Why
from metastack.pki.tokens import (
    JoinRequest,
    Token,
    TokenRecord,
    admit,
    check_token,
    encode_token,
    join_request,
    make_token,
    parse_token,
)

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
CA = make_authority("prod", NOW)
OTHER = make_authority("prod", NOW)
ENDPOINTS = ("https://10.0.0.1:2379", "https://10.0.0.2:2379")
TOKEN, RECORD, _ = make_token(CA, "n1", ENDPOINTS, NOW, by="anna")
KEY = new_key().public_key()
REQUEST = join_request(TOKEN, KEY, NOW)


def sealed(token: Token) -> str:
    """A token of which somebody changed a part and made the check sum again."""
    body = base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")
    return f"{tokens.KIND}.{body}.{tokens._check(body)}"


def parsing(text: str) -> Refusal:
    with pytest.raises(Refusal) as refused:
        parse_token(text)
    return refused.value


def admitting(
    record: TokenRecord | None = RECORD, request: JoinRequest = REQUEST, ca: Authority = CA, after_s: float = 0
) -> Refusal:
    now = NOW + timedelta(seconds=after_s)
    with pytest.raises(Refusal) as refused:
        admit(record, request if after_s == 0 else replace(request, sent_at=now), ca.fingerprint, now)
    return refused.value


def test_a_token_is_one_word_and_comes_back_whole() -> None:
    text = encode_token(TOKEN)
    assert text.split() == [text]
    assert parse_token(text) == TOKEN
    assert len(text) < 3000


def test_line_breaks_of_a_terminal_do_no_harm() -> None:
    text = encode_token(TOKEN)
    assert parse_token("\n  ".join(text[n : n + 72] for n in range(0, len(text), 72)) + "\n") == TOKEN


def test_the_bearer_has_a_client_certificate_of_its_own_user() -> None:
    from metastack.pki.facts import facts_of

    facts = facts_of(TOKEN.certificate(), NOW)
    assert facts.user == TOKEN.user == f"join.{TOKEN.id}"
    assert facts.not_after == TOKEN.expires == NOW + timedelta(hours=1)
    assert facts.serial == RECORD.cert_serial


def test_no_secret_is_in_the_record_or_in_the_repr() -> None:
    assert TOKEN.secret not in repr(TOKEN)
    assert TOKEN.secret.encode() not in msgspec.json.encode(RECORD)


@pytest.mark.parametrize("text", ["", "hello", "K10abc::server:x", ".".join(["mstoken", "x", "y"])])
def test_other_text_is_no_token(text: str) -> None:
    assert parsing(text).why is Why.NOT_A_TOKEN


def test_a_token_of_a_newer_release_says_upgrade() -> None:
    refused = parsing(encode_token(TOKEN).replace("mstoken1", "mstoken2", 1))
    assert refused.why is Why.NEWER_TOKEN
    assert "upgrade" in refused.hint


@pytest.mark.parametrize("cut", [9, 40, -1, -9])
def test_a_cut_token_is_damaged(cut: int) -> None:
    assert parsing(encode_token(TOKEN)[:cut]).why is Why.DAMAGED


@pytest.mark.parametrize("at", [10, 400, -3])
def test_a_changed_letter_is_seen(at: int) -> None:
    letters = list(encode_token(TOKEN))
    letters[at] = "B" if letters[at] != "B" else "C"
    assert parsing("".join(letters)).why is Why.DAMAGED


def test_parts_that_do_not_fit_are_refused() -> None:
    other, _, _ = make_token(CA, "n1", ENDPOINTS, NOW)
    foreign, _, _ = make_token(OTHER, "n1", ENDPOINTS, NOW)
    assert parsing(sealed(replace(TOKEN, ca_fingerprint=OTHER.fingerprint))).why is Why.OTHER_CA
    assert parsing(sealed(replace(TOKEN, cert=foreign.cert, key=foreign.key))).why is Why.OTHER_CA
    assert parsing(sealed(replace(TOKEN, key=other.key))).why is Why.KEY_MISMATCH
    assert parsing(sealed(replace(TOKEN, cert=other.cert, key=other.key))).why is Why.OTHER_NAME
    assert parsing(sealed(replace(TOKEN, cert=b"rubbish"))).why is Why.DAMAGED


def checking(after_s: float = 0, node: str = "", ca: Authority | None = None) -> Refusal:
    with pytest.raises(Refusal) as refused:
        check_token(TOKEN, NOW + timedelta(seconds=after_s), node, ca.certificate if ca else None)
    return refused.value


def test_a_node_sees_that_a_token_is_of_no_use() -> None:
    check_token(TOKEN, NOW, "n1", CA.certificate)
    assert checking(node="n2").why is Why.OTHER_NAME
    assert checking(ca=OTHER).why is Why.OTHER_CA
    assert checking(after_s=3600).why is Why.EXPIRED
    behind = checking(after_s=-600)
    assert behind.why is Why.CLOCK
    assert "off by 600 s (behind)" in behind.message


def test_a_request_is_admitted_and_spends_the_token() -> None:
    spent = admit(RECORD, REQUEST, CA.fingerprint, NOW)
    assert spent.spent_on
    assert replace(spent, spent_on="") == RECORD


def test_the_same_request_again_succeeds_and_changes_nothing() -> None:
    spent = admit(RECORD, REQUEST, CA.fingerprint, NOW)
    again = replace(REQUEST, sent_at=NOW + timedelta(minutes=5))
    assert admit(spent, again, CA.fingerprint, NOW + timedelta(minutes=5)) == spent


def test_another_request_finds_the_token_used() -> None:
    spent = admit(RECORD, REQUEST, CA.fingerprint, NOW)
    refused = admitting(spent, join_request(TOKEN, new_key().public_key(), NOW))
    assert refused.why is Why.USED
    assert refused.hint.endswith("`metastack node token create n1`")


def test_each_refusal_has_its_name() -> None:
    assert admitting(None).why is Why.UNKNOWN
    assert admitting(replace(RECORD, id="0000")).why is Why.UNKNOWN
    assert admitting(request=replace(REQUEST, secret="x")).why is Why.WRONG_SECRET
    assert admitting(request=replace(REQUEST, node="n2")).why is Why.OTHER_NAME
    assert admitting(request=replace(REQUEST, ca_fingerprint=OTHER.fingerprint)).why is Why.OTHER_CA
    assert admitting(ca=OTHER).why is Why.OTHER_CA
    assert admitting(replace(RECORD, withdrawn=True)).why is Why.REVOKED
    assert admitting(after_s=3600).why is Why.EXPIRED


@pytest.mark.parametrize(("off_s", "said"), [(600, "600 s (ahead)"), (-600, "600 s (behind)"), (61, "61 s")])
def test_a_wrong_clock_is_told_with_its_distance(off_s: int, said: str) -> None:
    refused = admitting(request=replace(REQUEST, sent_at=NOW + timedelta(seconds=off_s)))
    assert refused.why is Why.CLOCK
    assert f"off by {said}" in refused.message


@pytest.mark.parametrize("off_s", [60, -60, 0])
def test_a_clock_that_is_nearly_right_is_taken(off_s: int) -> None:
    admit(RECORD, replace(REQUEST, sent_at=NOW + timedelta(seconds=off_s)), CA.fingerprint, NOW)


def test_without_the_secret_nothing_else_is_told() -> None:
    spent = replace(RECORD, spent_on="x", withdrawn=True)
    request = replace(REQUEST, secret="x", node="n2", sent_at=NOW - timedelta(days=1))
    assert admitting(spent, request).why is Why.WRONG_SECRET


@pytest.mark.parametrize(
    ("node", "endpoints", "ttl", "why"),
    [
        ("N1", ENDPOINTS, timedelta(hours=1), Why.BAD_NAME),
        ("n1", (), timedelta(hours=1), Why.BAD_HOST),
        ("n1", ENDPOINTS, timedelta(0), Why.BAD_LIFE),
        ("n1", ENDPOINTS, timedelta(days=2), Why.BAD_LIFE),
    ],
)
def test_a_token_without_meaning_is_not_made(
    node: str, endpoints: tuple[str, ...], ttl: timedelta, why: Why
) -> None:
    with pytest.raises(Refusal) as refused:
        make_token(CA, node, endpoints, NOW, ttl=ttl)
    assert refused.value.why is why
