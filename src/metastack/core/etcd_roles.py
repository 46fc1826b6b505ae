"""What each identity may read and write in etcd, by key prefix: the roles that ``cluster init`` applies.

Owns: who writes which kind of key. Refuses: etcd's users, and who has which certificate.
Rule: every kind has a line in the table, and a test plays every scenario and command against it. A role that
lacks a key that its holder writes stops a fence or a takeover, so a role may be too wide and never too narrow.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from msgspec import Struct

from .state.keys import Keys, Kind, prefix_end
from .transaction import Delete, Transaction


class Writer(StrEnum):
    """A writer of a kind of key."""

    SELF = "self"
    """The node that the key names, and no other node."""
    NODE = "node"
    """Every node."""
    FENCER = "fencer"
    """Every node, of a key that names another node: an alive key that a fence for silent storage deletes."""
    OPERATOR = "operator"
    ADMIN = "admin"
    SCHEDULER = "scheduler"


S, N, F, O, A, C = Writer.SELF, Writer.NODE, Writer.FENCER, Writer.OPERATOR, Writer.ADMIN, Writer.SCHEDULER  # noqa: E741

WRITERS: Final[dict[Kind, frozenset[Writer]]] = {
    Kind.CLUSTER: frozenset({A}),
    Kind.GENERATION: frozenset({A}),
    Kind.STORAGE: frozenset({A}),
    Kind.ADMISSION: frozenset({O}),
    Kind.BACKUP: frozenset({A}),  # and etcd's root: it alone gets a snapshot
    Kind.IMAGE: frozenset({N, O}),  # nodes remove a deleted image's record once its object is gone
    Kind.PROJECT: frozenset({O}),
    Kind.VM_SPEC: frozenset({O}),
    Kind.NODE_SPEC: frozenset({O}),
    Kind.CLAIM: frozenset({N}),
    Kind.NODE_FACTS: frozenset({S, A}),
    Kind.FENCE: frozenset({N, A}),
    Kind.HALT: frozenset({N}),
    Kind.GROUP: frozenset({N, O}),  # a claim changes the group version, a spec the rule version
    Kind.HINT: frozenset({C}),
    Kind.PENALTY: frozenset({N}),
    Kind.LEADER: frozenset({C}),
    Kind.NODE_ALIVE: frozenset({S, F, A}),  # `cluster restore` deletes them all
    Kind.VM_STATUS: frozenset({N}),
    Kind.VOLUME: frozenset({N, O}),
    Kind.EVENT: frozenset({N, O}),
    Kind.HISTORY: frozenset({O}),
    Kind.TICKET: frozenset({N, O}),
    Kind.REFUSAL: frozenset({S, A}),
    Kind.REMOVAL: frozenset({S, A}),
    Kind.TRASH: frozenset({N}),
    Kind.COUNTED: frozenset({N}),
    Kind.IMPORT: frozenset({N, O}),
    Kind.SILENCED: frozenset({N}),
    Kind.BREAK_LOCK: frozenset({N, O}),
    Kind.MAINTENANCE: frozenset({N, O}),  # nodes end one that an etcd election would prolong
    Kind.HOST_RETURN: frozenset({N}),  # the same
    Kind.CLUSTER_SHUTDOWN: frozenset({N, O}),
    Kind.SECRET: frozenset({A}),  # not operators: to write is to delete, too
    Kind.TOKEN: frozenset({A}),
    Kind.CREDENTIAL: frozenset({A}),  # `node remove` marks it; `pki serve` is root
}

_UNSEEN: Final = (Kind.TICKET, Kind.SECRET)
"""Kinds that a viewer must not read: a ticket opens a console. An operator reads tickets, an admin secrets."""

OPERATOR_ROLES: Final[dict[str, tuple[str, ...]]] = {
    "viewer": ("viewer",),
    "operator": ("viewer", "operator"),
    "admin": ("viewer", "operator", "admin"),
}
"""etcd roles of an operator's certificate, by what it is issued as."""

SERVICE_ROLES: Final[dict[str, tuple[str, ...]]] = {
    "backup": ("root",),  # etcd gives a snapshot to root alone
    "logs": (),  # the log host: its certificate opens nothing in etcd
    "monitor": ("viewer",),
    "pki": ("root",),  # etcd lets root alone make users
    "scheduler": ("viewer", "scheduler"),
    "web": ("viewer", "operator", "admin"),
}
"""etcd roles of a management service."""

NODE_ROLES: Final = ("node", "fencer")
"""etcd roles of every node, beside its own."""


class Right(Struct, frozen=True, order=True):
    """One permission as etcd has it: the keys in [key, end); with ``end`` empty that one key."""

    access: str
    """``read`` or ``write``. To write is to put and to delete."""
    key: str
    end: str = ""


class EtcdRole(Struct, frozen=True):
    """A role of etcd."""

    name: str
    rights: tuple[Right, ...]


def _under(access: str, prefix: str) -> Right:
    """All that begins with it, also for a kind that is a single key: the Store lists by prefix."""
    return Right(access, prefix, prefix_end(prefix).decode())


def _of_kinds(keys: Keys, access: str, kinds: Iterable[Kind]) -> tuple[Right, ...]:
    rights = []
    for prefix in keys.prefixes(kinds):
        whole = access == "read" or prefix.endswith("/")
        rights.append(_under(access, prefix) if whole else Right(access, prefix))
    return tuple(sorted(rights))


def _written_by(writer: Writer) -> list[Kind]:
    return [kind for kind, who in WRITERS.items() if writer in who]


def cluster_roles(keys: Keys, *, fences_living: bool = True) -> tuple[EtcdRole, ...]:
    """The roles that exist once in a cluster.

    ``fences_living``: nodes fence a living node whose storage is silent (``storage_lost_s`` above 0). Otherwise
    the role ``fencer`` is empty, and no node writes another node's alive key.
    """
    # The informer watches everything under the root, so it reads all of it.
    reads_all, probe = _under("read", keys.prefix()), Right("write", keys.nothing())
    # The scheduler watches up to the secrets: what it needs lies before them.
    reads_public = Right("read", keys.prefix(), keys.prefix(Kind.SECRET))
    seen = [kind for kind in Kind if kind not in _UNSEEN]

    def writes(writer: Writer) -> tuple[Right, ...]:
        return _of_kinds(keys, "write", _written_by(writer))

    return (
        EtcdRole("node", (reads_all, probe, *writes(Writer.NODE))),
        EtcdRole("fencer", writes(Writer.FENCER) if fences_living else ()),
        EtcdRole("viewer", _of_kinds(keys, "read", seen)),
        EtcdRole("operator", (*_of_kinds(keys, "read", (Kind.TICKET,)), *writes(Writer.OPERATOR))),
        EtcdRole("admin", (*_of_kinds(keys, "read", (Kind.SECRET,)), *writes(Writer.ADMIN))),
        EtcdRole("scheduler", (reads_public, *writes(Writer.SCHEDULER))),
    )


def node_role(keys: Keys, node: str) -> EtcdRole:
    """The role of one node: to write the keys that name it."""
    own = (keys.node_facts(node), keys.node_alive(node), keys.refusal(node), keys.removal(node))
    return EtcdRole(f"node.{node}", tuple(sorted(Right("write", key) for key in own)))


def node_rights(keys: Keys, node: str) -> Rights:
    """What an agent may do."""
    shared = (role for role in cluster_roles(keys) if role.name in NODE_ROLES)
    return Rights(*shared, node_role(keys, node))


def join_role(keys: Keys, ident: str) -> EtcdRole:
    """The role of a token's bearer: its own exchange, and nothing else."""
    prefix = keys.join_prefix(ident)
    return EtcdRole(f"join.{ident}", (_under("read", prefix), _under("write", prefix)))


class Rights:
    """What the holder of some roles may do; ranges that touch are joined, as etcd joins them."""

    def __init__(self, *roles: EtcdRole) -> None:
        rights = [right for role in roles for right in role.rights]
        self._reads, self._writes = _joined("read", rights), _joined("write", rights)

    def reads(self, key: str) -> bool:
        return _cover(self._reads, key)

    def lists(self, prefix: str, until: str = "") -> bool:
        """True if it may list and watch all that begins so, or what of it is below ``until``."""
        return _cover(self._reads, prefix, until or prefix_end(prefix).decode())

    def outside(self, change: Transaction) -> list[str]:
        """What of a transaction etcd would refuse: ``read KEY``, ``write KEY``, ``write KEY to END``."""
        found = [f"read {guard.key}" for guard in change.guards if not _cover(self._reads, guard.key)]
        for effect in change.effects:
            end = effect.range_end if isinstance(effect, Delete) else ""
            if not _cover(self._writes, effect.key, end):
                found.append(f"write {effect.key}" + (f" to {end}" if end else ""))
        return found


def _joined(access: str, rights: Iterable[Right]) -> list[tuple[str, str]]:
    joined: list[tuple[str, str]] = []
    for begin, end in sorted(_span(right.key, right.end) for right in rights if right.access == access):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def _cover(ranges: list[tuple[str, str]], key: str, end: str = "") -> bool:
    begin, end = _span(key, end)
    return any(first <= begin and end <= last for first, last in ranges)


def _span(key: str, end: str) -> tuple[str, str]:
    return key, end or key + "\0"
