"""The subject of a certificate, and the etcd user that its holder is.

Rule: a certificate's common name is the etcd user. A name holds no dot, so no subject's user is another's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from metastack.core.etcd_roles import NODE_ROLES, OPERATOR_ROLES, SERVICE_ROLES
from metastack.core.model import valid_name

from .refusal import Refusal, Why

ROOT_USER: Final = "root"
"""The user that etcd wants before its rights can be switched on; no rule holds for it."""


class SubjectKind(StrEnum):
    """What a subject is; the first word of its etcd user."""

    NODE = "node"
    OPERATOR = "operator"
    SERVICE = "service"
    ETCD = "etcd"
    """A member of etcd. No etcd user has this name, so its certificate opens nothing (CVE-2018-16886)."""
    JOIN = "join"
    """The bearer of a token."""
    ROOT = "root"


_SERVES: Final = frozenset({SubjectKind.NODE, SubjectKind.SERVICE, SubjectKind.ETCD})
"""Kinds that others connect to."""
LIFE_DAYS: Final = {
    SubjectKind.NODE: 365,
    SubjectKind.OPERATOR: 365,
    SubjectKind.SERVICE: 365,
    SubjectKind.ETCD: 365,
    SubjectKind.ROOT: 365,
    SubjectKind.JOIN: 1,
}
_ROLES: Final = {SubjectKind.OPERATOR: OPERATOR_ROLES, SubjectKind.SERVICE: SERVICE_ROLES}


class Subject(Struct, frozen=True):
    """The holder of a certificate. ``role`` is for operators and services alone."""

    kind: SubjectKind
    name: str
    role: str = ""

    @property
    def user(self) -> str:
        """The etcd user, and the certificate's common name."""
        return ROOT_USER if self.kind is SubjectKind.ROOT else f"{self.kind}.{self.name}"

    @property
    def serves(self) -> bool:
        """True if others connect to it, so that its certificate names hosts."""
        return self.kind in _SERVES

    @property
    def usages(self) -> list[x509.ObjectIdentifier]:
        """Extended key usages. An etcd member is its peers' client too."""
        server = [ExtendedKeyUsageOID.SERVER_AUTH] if self.serves else []
        return [*server, ExtendedKeyUsageOID.CLIENT_AUTH]

    def etcd_roles(self) -> tuple[str, ...]:
        """Names of the etcd roles of its user, as ``cluster init`` and ``pki serve`` grant them."""
        match self.kind:
            case SubjectKind.NODE:
                return (*NODE_ROLES, self.user)
            case SubjectKind.OPERATOR | SubjectKind.SERVICE:
                return _ROLES[self.kind][self.role]
            case SubjectKind.JOIN:
                return (self.user,)
            case SubjectKind.ROOT:
                return (ROOT_USER,)
            case SubjectKind.ETCD:
                return ()

    def x509(self) -> x509.Name:
        """The distinguished name; the unit repeats the role for readers, etcd's user decides."""
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, self.user)]
        if self.role:
            parts.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, self.role))
        return x509.Name(parts)


def subject(kind: SubjectKind, name: str = "", role: str = "") -> Subject:
    """A subject that was checked; raises Refusal. The role of a service is its name unless given."""
    if kind is SubjectKind.ROOT:
        return Subject(kind, "")
    if not valid_name(name):
        raise Refusal(Why.BAD_NAME, f"{kind} {name!r}", "the name is not a DNS label", "use a-z, 0-9 and -")
    roles = _ROLES.get(kind)
    if roles is None:
        if role:
            raise Refusal(Why.BAD_NAME, f"{kind} {name}", f"takes no role, {role!r} is given")
        return Subject(kind, name)
    role = role or (name if kind is SubjectKind.SERVICE else "")
    if role not in roles:
        said = f"has no role {role!r}" if role else "needs a role"
        raise Refusal(Why.BAD_NAME, f"{kind} {name}", said, f"roles: {', '.join(roles)}")
    return Subject(kind, name, role)


def parse(user: str, role: str = "") -> Subject | None:
    """The subject of a common name; None for a name that this program does not give."""
    kind, _, name = user.partition(".")
    try:
        if user == ROOT_USER:
            return Subject(SubjectKind.ROOT, "")
        found = subject(SubjectKind(kind), name, role)
    except (ValueError, Refusal):
        return None
    return found if found.user == user else None
