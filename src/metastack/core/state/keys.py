"""Every etcd key, built and parsed in one place.

Owns: the tree under the root (docs/reference/records.md). Refuses: any other module putting a key together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Final

from msgspec import Struct

from ..model import NAME_RE, VmId

DEFAULT_ROOT: Final = "/metastack"


class Kind(StrEnum):
    """What lives at a key."""

    CLUSTER = "config/cluster"
    GENERATION = "config/generation"
    STORAGE = "config/storage"
    ADMISSION = "config/admission"
    BACKUP = "config/backup"
    IMAGE = "config/images"
    PROJECT = "config/projects"
    VM_SPEC = "desired/vms"
    NODE_SPEC = "desired/nodes"
    CLAIM = "claims"
    NODE_FACTS = "nodes"
    FENCE = "fences"
    HALT = "halts"
    GROUP = "groups"
    HINT = "hints"
    PENALTY = "penalties"
    LEADER = "scheduler/leader"
    NODE_ALIVE = "actual/nodes"
    VM_STATUS = "actual/vms"
    VOLUME = "actual/volumes"
    EVENT = "events"
    HISTORY = "history"
    TICKET = "tickets"
    REFUSAL = "refusals"
    REMOVAL = "removals"
    TRASH = "trash"
    COUNTED = "counted"
    IMPORT = "imports"
    SILENCED = "silenced"
    BREAK_LOCK = "requests/break-lock"
    MAINTENANCE = "maintenance"
    SECRET = "secrets"
    HOST_RETURN = "returns"
    TOKEN = "tokens"
    CREDENTIAL = "credentials"
    CLUSTER_SHUTDOWN = "shutdown"


OF_A_NODE: Final = frozenset({Kind.NODE_ALIVE, Kind.FENCE, Kind.NODE_SPEC, Kind.NODE_FACTS, Kind.HOST_RETURN})
"""Kinds whose first name is a node's."""
_ABOUT_NODES: Final = OF_A_NODE | {Kind.CLUSTER}

_PARTS: Final[dict[Kind, int]] = {
    Kind.CLUSTER: 0,
    Kind.GENERATION: 0,
    Kind.STORAGE: 0,
    Kind.ADMISSION: 0,
    Kind.BACKUP: 0,
    Kind.IMAGE: 1,
    Kind.PROJECT: 1,
    Kind.VM_SPEC: 2,
    Kind.NODE_SPEC: 1,
    Kind.CLAIM: 2,
    Kind.NODE_FACTS: 1,
    Kind.FENCE: 1,
    Kind.HALT: 2,
    Kind.GROUP: 3,
    Kind.HINT: 2,
    Kind.PENALTY: 3,
    Kind.LEADER: 0,
    Kind.NODE_ALIVE: 1,
    Kind.VM_STATUS: 2,
    Kind.VOLUME: 2,
    Kind.EVENT: 1,
    Kind.HISTORY: 3,
    Kind.TICKET: 1,
    Kind.REFUSAL: 1,
    Kind.REMOVAL: 1,
    Kind.TRASH: 1,
    Kind.COUNTED: 0,
    Kind.IMPORT: 1,
    Kind.SILENCED: 0,
    Kind.BREAK_LOCK: 2,
    Kind.MAINTENANCE: 0,
    Kind.SECRET: 1,
    Kind.HOST_RETURN: 1,
    Kind.TOKEN: 1,
    Kind.CREDENTIAL: 1,
    Kind.CLUSTER_SHUTDOWN: 0,
}


_KINDS: Final[dict[str, Kind]] = {kind.value: kind for kind in Kind if "/" not in kind.value}
_DEEPER: Final[dict[str, dict[str, Kind]]] = {}
"""Kinds of two segments, by the first and the second."""
for _kind in Kind:
    _first, _, _second = _kind.value.partition("/")
    if _second:
        _DEEPER.setdefault(_first, {})[_second] = _kind


_NAMED: Final = frozenset({Kind.VM_SPEC, Kind.CLAIM, Kind.NODE_ALIVE, Kind.PENALTY})
"""Kinds whose names become names of other things."""


class ParsedKey(Struct, frozen=True):
    """A key taken apart: its kind and the names in it."""

    kind: Kind
    names: tuple[str, ...]

    @property
    def vm(self) -> VmId:
        return VmId(self.names[0], self.names[1])


def in_order(keys: Collection[ParsedKey]) -> list[ParsedKey]:
    """Sorted, so that what follows from them does not depend on the process's hash seed."""
    if len(keys) < 2:  # as with most messages
        return list(keys)
    return sorted(keys, key=lambda key: (key.kind, key.names))


def about_nodes(touched: Iterable[ParsedKey]) -> bool:
    """True when a node's records are among them, or the settings, which say how many may be gone."""
    return not _ABOUT_NODES.isdisjoint([key.kind for key in touched])


class Keys:
    """The key tree under one root, so that clusters can share an etcd."""

    def __init__(self, root: str = DEFAULT_ROOT) -> None:
        if not root.startswith("/") or root.endswith("/") or "//" in root:
            raise ValueError(f"root {root!r} must start with / and not end with it")
        self.root = root
        self._start = f"{root}/"

    def prefix(self, kind: Kind | None = None) -> str:
        """The prefix of a kind, with its closing slash; of everything without one."""
        return f"{self.root}/" if kind is None else f"{self.root}/{kind.value}/"

    def prefixes(self, kinds: Iterable[Kind]) -> list[str]:
        """The prefix of each kind; a kind that is a single key is its own prefix."""
        return [self.prefix(kind) if _PARTS[kind] else self._key(kind) for kind in kinds]

    def _key(self, kind: Kind, *names: str) -> str:
        for name in names:
            if not name or "/" in name:
                raise ValueError(f"{name!r} cannot be part of a key")
        return "/".join((self.root, kind.value, *names))

    def nothing(self) -> str:
        """A key that never exists: to delete it is a write that changes nothing."""
        return f"{self.root}/nothing"

    def forbidden(self) -> str:
        """A key that never exists and that no role may write: to delete it proves that rights are enforced."""
        return f"{self.root}/forbidden"

    def cluster(self) -> str:
        return self._key(Kind.CLUSTER)

    def generation(self) -> str:
        return self._key(Kind.GENERATION)

    def storage(self) -> str:
        return self._key(Kind.STORAGE)

    def admission(self) -> str:
        return self._key(Kind.ADMISSION)

    def backup(self) -> str:
        return self._key(Kind.BACKUP)

    def image(self, name: str) -> str:
        return self._key(Kind.IMAGE, name)

    def project(self, name: str) -> str:
        return self._key(Kind.PROJECT, name)

    def vm_spec(self, vm: VmId) -> str:
        return self._key(Kind.VM_SPEC, vm.project, vm.name)

    def node_spec(self, node: str) -> str:
        return self._key(Kind.NODE_SPEC, node)

    def claim(self, vm: VmId) -> str:
        return self._key(Kind.CLAIM, vm.project, vm.name)

    def node_facts(self, node: str) -> str:
        return self._key(Kind.NODE_FACTS, node)

    def fence(self, node: str) -> str:
        return self._key(Kind.FENCE, node)

    def halt(self, vm: VmId) -> str:
        return self._key(Kind.HALT, vm.project, vm.name)

    def node_alive(self, node: str) -> str:
        return self._key(Kind.NODE_ALIVE, node)

    def vm_status(self, vm: VmId) -> str:
        return self._key(Kind.VM_STATUS, vm.project, vm.name)

    def group(self, project: str, group: str, domain: str) -> str:
        return self._key(Kind.GROUP, project, group, domain)

    def hint(self, vm: VmId) -> str:
        return self._key(Kind.HINT, vm.project, vm.name)

    def penalty(self, vm: VmId, node: str) -> str:
        return self._key(Kind.PENALTY, vm.project, vm.name, node)

    def penalty_prefix(self, vm: VmId) -> str:
        return self._key(Kind.PENALTY, vm.project, vm.name) + "/"

    def leader(self) -> str:
        return self._key(Kind.LEADER)

    def volume(self, project: str, uuid: str) -> str:
        return self._key(Kind.VOLUME, project, uuid)

    def event(self, at_ms: int, ident: str) -> str:
        """Events sort by time, so that old ones are one range."""
        return self._key(Kind.EVENT, f"{at_ms:014d}-{ident}")

    def events_before(self, at_ms: int) -> tuple[str, str]:
        """The range [start, end) of events older than a moment, milliseconds since the epoch."""
        return self.prefix(Kind.EVENT), f"{self.prefix(Kind.EVENT)}{at_ms:014d}"

    def history(self, vm: VmId, version: int) -> str:
        return self._key(Kind.HISTORY, vm.project, vm.name, f"{version:016d}")

    def history_prefix(self, vm: VmId) -> str:
        return self._key(Kind.HISTORY, vm.project, vm.name) + "/"

    def ticket(self, secret: str) -> str:
        """Of a ticket; the key has its hash, so that who can read etcd can use none."""
        return self._key(Kind.TICKET, hashlib.sha256(secret.encode()).hexdigest())

    def ticket_as_told(self, secret: str) -> str:
        """Where commands of before put a ticket."""
        return self._key(Kind.TICKET, secret)

    def refusal(self, node: str) -> str:
        return self._key(Kind.REFUSAL, node)

    def removal(self, node: str) -> str:
        return self._key(Kind.REMOVAL, node)

    def trash(self, uuid: str) -> str:
        return self._key(Kind.TRASH, uuid)

    def counted(self) -> str:
        return self._key(Kind.COUNTED)

    def import_of(self, uuid: str) -> str:
        return self._key(Kind.IMPORT, uuid)

    def silenced(self) -> str:
        return self._key(Kind.SILENCED)

    def maintenance(self) -> str:
        return self._key(Kind.MAINTENANCE)

    def secret(self, name: str) -> str:
        return self._key(Kind.SECRET, name)

    def host_return(self, node: str) -> str:
        return self._key(Kind.HOST_RETURN, node)

    def cluster_shutdown(self) -> str:
        return self._key(Kind.CLUSTER_SHUTDOWN)

    def break_lock(self, vm: VmId) -> str:
        return self._key(Kind.BREAK_LOCK, vm.project, vm.name)

    def token(self, ident: str) -> str:
        return self._key(Kind.TOKEN, ident)

    def credential(self, node: str) -> str:
        return self._key(Kind.CREDENTIAL, node)

    def joins(self) -> str:
        """Prefix of all that bearers of tokens write."""
        return f"{self.root}/join/"

    def join_request(self, ident: str) -> str:
        return self.join_prefix(ident) + "request"

    def join_answer(self, ident: str) -> str:
        return self.join_prefix(ident) + "answer"

    def join_prefix(self, ident: str) -> str:
        """Where a token's bearer and ``pki serve`` talk; agents ignore it."""
        if not ident or "/" in ident:
            raise ValueError(f"{ident!r} cannot be part of a key")
        return f"{self.root}/join/{ident}/"

    def parse(self, key: str) -> ParsedKey | None:
        """Take a key apart; None for one that is not ours to understand."""
        if not key.startswith(self._start):
            return None
        parts = key[len(self._start) :].split("/")
        kind, at = _KINDS.get(parts[0]), 1
        if kind is None:
            if len(parts) < 2 or (kind := _DEEPER.get(parts[0], {}).get(parts[1])) is None:
                return None
            at = 2
        names = tuple(parts[at:])
        if len(names) != _PARTS[kind] or "" in names:
            return None
        if kind in _NAMED:
            for name in names:
                if NAME_RE.fullmatch(name) is None:
                    return None
        return ParsedKey(kind, names)


def prefix_end(prefix: str) -> bytes:
    """The first key after every key with this prefix (etcd's range_end); ``\\0`` means "no end" to etcd."""
    raw = bytearray(prefix.encode())
    while raw:
        if raw[-1] < 0xFF:
            raw[-1] += 1
            return bytes(raw)
        raw.pop()
    return b"\0"
