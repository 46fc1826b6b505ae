"""Meanings of etcd's errors: gRPC's code *and* etcd's text, as the ports' error families.

Owns: the table of texts. Refuses: to guess; what is not in the table may have been applied.
Rule: "nothing was applied" is only said of errors that etcd raises before it proposes a request to its peers.
Texts are those of etcd 3.4 to 3.6 (api/v3rpc/rpctypes/error.go); they are part of its API and stable.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import grpc
from msgspec import Struct

from metastack.ports import (
    Broken,
    Compacted,
    Denied,
    Exists,
    LeaseGone,
    NoSpace,
    NotFound,
    Refused,
    Unavailable,
)

Code = grpc.StatusCode


class Verdict(Enum):
    """What may be done after an error."""

    ELSEWHERE = "elsewhere"
    """Certainly not applied: any request may be tried again, on another member."""
    UNSURE = "unsure"
    """Perhaps applied: only requests that may run twice are tried again."""
    FINAL = "final"
    """Certainly not applied, and trying again changes nothing: raise ``error``."""


class Judgement(Struct, frozen=True):
    verdict: Verdict
    error: type[Exception] = Unavailable


_ELSEWHERE: Final = Judgement(Verdict.ELSEWHERE)
_UNSURE: Final = Judgement(Verdict.UNSURE)

_TEXTS: Final[tuple[tuple[str, Judgement], ...]] = (
    # The interceptor refuses before the request is looked at.
    ("etcdserver: no leader", _ELSEWHERE),
    ("etcdserver: not capable", _ELSEWHERE),
    ("etcdserver: too many requests", _ELSEWHERE),
    # Users or roles changed between a request and its turn; the second is what 3.5.1 says of it.
    ("etcdserver: revision of auth store is old", _ELSEWHERE),
    ("auth: revision in header is old", _ELSEWHERE),
    ("etcdserver: rpc not supported for learner", _ELSEWHERE),
    # gRPC's own: the connection never came about.
    ("failed to connect to all addresses", _ELSEWHERE),
    ("DNS resolution failed", _ELSEWHERE),
    # Applied as an error: nothing was written.
    ("etcdserver: mvcc: database space exceeded", Judgement(Verdict.FINAL, NoSpace)),
    ("required revision has been compacted", Judgement(Verdict.FINAL, Compacted)),
    ("etcdserver: requested lease not found", Judgement(Verdict.FINAL, LeaseGone)),
    ("etcdserver: permission denied", Judgement(Verdict.FINAL, Denied)),
    ("etcdserver: user name is empty", Judgement(Verdict.FINAL, Denied)),
    ("etcdserver: invalid auth token", Judgement(Verdict.FINAL, Denied)),
    ("etcdserver: authentication failed", Judgement(Verdict.FINAL, Denied)),
    ("etcdserver: user name already exists", Judgement(Verdict.FINAL, Exists)),
    ("etcdserver: role name already exists", Judgement(Verdict.FINAL, Exists)),
    ("etcdserver: user name not found", Judgement(Verdict.FINAL, NotFound)),
    ("etcdserver: role name not found", Judgement(Verdict.FINAL, NotFound)),
    ("etcdserver: role is not granted to the user", Judgement(Verdict.FINAL, NotFound)),
    ("etcdserver: permission is not granted to the role", Judgement(Verdict.FINAL, NotFound)),
    ("etcdserver: authentication is not enabled", Judgement(Verdict.FINAL, Refused)),
    ("etcdserver: root user does not exist", Judgement(Verdict.FINAL, Refused)),
    ("etcdserver: root user does not have root role", Judgement(Verdict.FINAL, Refused)),
    ("etcdserver: invalid auth management", Judgement(Verdict.FINAL, Refused)),
    ("etcdserver: duplicate key given in txn request", Judgement(Verdict.FINAL, Broken)),
    ("etcdserver: too many operations in txn request", Judgement(Verdict.FINAL, Broken)),
    ("etcdserver: request is too large", Judgement(Verdict.FINAL, Broken)),
    ("etcdserver: key is not provided", Judgement(Verdict.FINAL, Broken)),
    ("etcdserver: corrupt cluster", Judgement(Verdict.FINAL, Unavailable)),
)

_CODES: Final[dict[grpc.StatusCode, Judgement]] = {
    Code.PERMISSION_DENIED: Judgement(Verdict.FINAL, Denied),
    Code.UNAUTHENTICATED: Judgement(Verdict.FINAL, Denied),
    # Whatever listens there is no etcd.
    Code.UNIMPLEMENTED: _ELSEWHERE,
    Code.INVALID_ARGUMENT: Judgement(Verdict.FINAL, Broken),
}


def judge(code: grpc.StatusCode, text: str) -> Judgement:
    """The meaning of an error that a member (or gRPC on its behalf) answered."""
    for part, judgement in _TEXTS:
        if part in text:
            return judgement
    return _CODES.get(code, _UNSURE)
