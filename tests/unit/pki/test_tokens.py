"""Join tokens: encoded, parsed, and each refusal by its name."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from msgspec.structs import replace

from metastack.core.model import JoinRequest, JoinToken
from metastack.pki import tokens
from metastack.pki.authority import Authority, make_authority, make_request, new_key, read_request, sign
from metastack.pki.files import certificate_pem
from metastack.pki.refusal import Refusal, Why
from metastack.pki.subject import SubjectKind, subject
from metastack.pki.tokens import (
    LINGER,
    NodeKey,
    Token,
    admit,
    begin_token,
    check_token,
    encode_token,
    key_hash,
    parse_token,
    prove,
    turned_away,
)

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
CA = make_authority("prod", NOW)
OTHER = make_authority("prod", NOW)
ENDPOINTS = ("https://10.0.0.1:2379", "https://10.0.0.2:2379")
HOUR = timedelta(hours=1)


def made(ca: Authority = CA) -> tuple[Token, JoinToken]:
    """A token of n1 as the CA signed it, and its record."""
    begun = begin_token("n1", ENDPOINTS, HOUR)
    to = subject(SubjectKind.JOIN, begun.id)
    certificate = sign(ca, read_request(begun.request.encode(), to), to, NOW, life=HOUR + LINGER)
    pem = certificate_pem(certificate).decode()
    token = begun.complete(pem.encode(), ca.certificate_pem, ENDPOINTS, "/metastack")
    return token, JoinToken(id=begun.id, node="n1", lease=1, ttl_s=3600, certificate=pem)


def asking(key: NodeKey, node: str = "n1") -> JoinRequest:
    csr = make_request(subject(SubjectKind.NODE, node), key).decode()
    return JoinRequest(
        id=TOKEN.id,
        nonce="x",
        proof=prove(TOKEN, "x", csr),
        node="n1",
        ca_fingerprint=CA.fingerprint,
        request=csr,
        sent_ms=int(NOW.timestamp() * 1000),
    )


TOKEN, RECORD = made()
KEY = new_key()
REQUEST = asking(KEY)


def sealed(token: Token) -> str:
    """A token of which somebody changed a part and made the check sum again."""
    body = base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")
    return f"{tokens.KIND}.{body}.{tokens._check(body)}"


def parsing(text: str) -> Refusal:
    with pytest.raises(Refusal) as refused:
        parse_token(text)
    return refused.value


def admitting(
    record: JoinToken | None = RECORD,
    request: JoinRequest = REQUEST,
    ca: Authority = CA,
    left_s: float = 3600,
) -> Refusal:
    with pytest.raises(Refusal) as refused:
        admit(record, request, ca.fingerprint, NOW, left_s=left_s)
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
    assert TOKEN.expires == NOW + HOUR
    assert facts.not_after == TOKEN.expires + LINGER


def test_no_secret_is_in_the_record_or_in_the_repr() -> None:
    key = base64.b64encode(TOKEN.key)
    assert key in msgspec.json.encode(TOKEN)
    assert key not in msgspec.json.encode(RECORD) and key not in msgspec.json.encode(REQUEST)
    assert key.decode() not in repr(TOKEN)


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
    (other, _), (foreign, _) = made(), made(OTHER)
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
    behind = checking(after_s=-600)
    assert behind.why is Why.CLOCK
    assert "off by 600 s (behind)" in behind.message


def test_a_fast_clock_does_not_end_a_token() -> None:
    """Whether it is expired the cluster says: this host's clock may be two hours ahead."""
    check_token(TOKEN, NOW + timedelta(hours=2), "n1", CA.certificate)


def test_a_bearer_that_etcd_turns_away_learns_why() -> None:
    assert turned_away(TOKEN, NOW + 2 * HOUR).why is Why.EXPIRED
    assert turned_away(TOKEN, NOW).why is Why.REVOKED


def test_a_request_is_admitted_with_its_key() -> None:
    assert key_hash(admit(RECORD, REQUEST, CA.fingerprint, NOW, left_s=1)) == key_hash(KEY.public_key())


def test_the_same_key_again_is_admitted() -> None:
    spent = replace(RECORD, spent_on=key_hash(KEY.public_key()))
    admit(spent, asking(KEY), CA.fingerprint, NOW, left_s=1)


def test_another_key_finds_the_token_used() -> None:
    spent = replace(RECORD, spent_on=key_hash(KEY.public_key()))
    refused = admitting(spent, asking(new_key()))
    assert refused.why is Why.USED
    assert refused.hint.endswith("`metastack node token create n1`")


def test_each_refusal_has_its_name() -> None:
    assert admitting(None).why is Why.UNKNOWN
    assert admitting(replace(RECORD, id="0000")).why is Why.UNKNOWN
    assert (
        admitting(request=replace(REQUEST, proof=prove(made()[0], "x", REQUEST.request))).why
        is Why.WRONG_SECRET
    )
    assert admitting(request=replace(REQUEST, node="n2")).why is Why.OTHER_NAME
    assert admitting(request=replace(REQUEST, ca_fingerprint=OTHER.fingerprint)).why is Why.OTHER_CA
    assert admitting(ca=OTHER).why is Why.OTHER_CA
    assert admitting(replace(RECORD, withdrawn=True)).why is Why.REVOKED
    assert admitting(left_s=0).why is Why.EXPIRED
    assert admitting(request=asking(KEY, "n2")).why is Why.OTHER_NAME
    rubbish = replace(REQUEST, request="rubbish", proof=prove(TOKEN, "x", "rubbish"))
    assert admitting(request=rubbish).why is Why.BAD_REQUEST


@pytest.mark.parametrize(
    "change",
    [{"proof": ""}, {"proof": "AA=="}, {"proof": "%"}, {"nonce": "y"}, {"request": "other"}, {"id": "0" * 16}],
)
def test_a_proof_is_of_one_request(change: dict[str, str]) -> None:
    refused = admitting(request=replace(REQUEST, **change))  # type: ignore[arg-type]
    assert refused.why is (Why.UNKNOWN if "id" in change else Why.WRONG_SECRET)


def moved(off_s: int) -> JoinRequest:
    return replace(REQUEST, sent_ms=REQUEST.sent_ms + off_s * 1000)


@pytest.mark.parametrize(("off_s", "said"), [(600, "600 s (ahead)"), (-600, "600 s (behind)"), (61, "61 s")])
def test_a_wrong_clock_is_told_with_its_distance(off_s: int, said: str) -> None:
    refused = admitting(request=moved(off_s))
    assert refused.why is Why.CLOCK
    assert f"off by {said}" in refused.message


@pytest.mark.parametrize("off_s", [60, -60, 0])
def test_a_clock_that_is_nearly_right_is_taken(off_s: int) -> None:
    admit(RECORD, moved(off_s), CA.fingerprint, NOW, left_s=1)


def test_without_the_secret_nothing_else_is_told() -> None:
    spent = replace(RECORD, spent_on="x", withdrawn=True)
    request = replace(moved(-86_400), proof="", node="n2")
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
        begin_token(node, endpoints, ttl)
    assert refused.value.why is why
