"""etcd's users, roles and its switch for rights, as the holder of etcd's own role ``root`` sees and sets them.

Owns: making etcd's users and roles equal to what is asked, and saying what changed. Refuses: passwords; a user
is proven by a certificate alone, whose common name is the user's name.
Rule: every step may run twice and in any order with another's, so whoever died half-way just asks again. A
right is granted before another is taken away, so that a change of roles never stops a working node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from aetcd import rpc
from msgspec import Struct

from metastack.core.etcd_roles import EtcdRole, Right
from metastack.core.state.keys import prefix_end
from metastack.ports import Exists, NotFound
from metastack.settings import StoreSettings

from .channel import METADATA, TOTAL_S, Channels, Link
from .rights import enabled as rights_on

ROOT: Final = "root"
"""Name of etcd's own role with every right, and of the user that must have it before rights are switched on."""
_READ, _WRITE, _BOTH = rpc.Permission.READ, rpc.Permission.WRITE, rpc.Permission.READWRITE
_KINDS: Final = {_READ: ("read",), _WRITE: ("write",), _BOTH: ("read", "write")}

Span = tuple[str, str]
"""First key and end of a range, as etcd has them; with an empty end a single key."""


class Accounts(Struct, frozen=True):
    """Users and roles as etcd has them."""

    users: dict[str, frozenset[str]]
    """User to its roles."""
    roles: dict[str, frozenset[Right]]


class EtcdUsers:
    """The accounts of one etcd. Connects when first used, with the certificate of a holder of ``root``."""

    def __init__(self, settings: StoreSettings, *, total_timeout_s: float = TOTAL_S) -> None:
        self._channels = Channels(settings, total_timeout_s)

    async def enabled(self) -> bool:
        """True if this etcd enforces rights."""
        return await rights_on(self._channels)

    async def enable(self) -> list[str]:
        """Switch rights on; the user ``root`` must exist. Others are refused then."""
        if await self.enabled():
            return []
        await self._ask("switch rights on", "AuthEnable", rpc.AuthEnableRequest())
        return ["rights are on"]

    async def read(self) -> Accounts:
        """Every user with its roles and every role with its rights."""
        users = (await self._ask("list users", "UserList", rpc.AuthUserListRequest())).users
        roles = (await self._ask("list roles", "RoleList", rpc.AuthRoleListRequest())).roles
        # What somebody else deletes meanwhile is left out.
        held = {name: await self.roles_of(name) for name in users}
        spans = {name: await self._spans(name) for name in roles}
        return Accounts(
            {name: found for name, found in held.items() if found is not None},
            {name: _rights(rights) for name, rights in spans.items() if rights is not None},
        )

    async def roles_of(self, user: str) -> frozenset[str] | None:
        """A user's roles; None if there is no such user."""
        try:
            answer = await self._ask(f"user {user}", "UserGet", rpc.AuthUserGetRequest(name=user))
        except NotFound:
            return None
        return frozenset(answer.roles)

    async def apply(
        self, roles: Iterable[EtcdRole] = (), users: Mapping[str, Collection[str]] | None = None
    ) -> list[str]:
        """Make these roles and users exactly so, and leave all others alone; what changed, a line each."""
        changed: list[str] = []
        for role in roles:
            changed += await self._apply_role(role)
        for user, wanted in (users or {}).items():
            changed += await self._apply_user(user, frozenset(wanted))
        return changed

    async def remove(self, users: Iterable[str] = (), roles: Iterable[str] = ()) -> list[str]:
        """Delete users and roles; one that is not there is no error. What changed, a line each.

        A user that is gone is refused at its next request. Only watch streams that are open already go on.
        """
        changed = []
        for name in users:
            user = rpc.AuthUserDeleteRequest(name=name)
            if await self._done(f"delete user {name}", "UserDelete", user, NotFound):
                changed.append(f"user {name} deleted")
        for name in roles:
            role = rpc.AuthRoleDeleteRequest(role=name)
            if await self._done(f"delete role {name}", "RoleDelete", role, NotFound):
                changed.append(f"role {name} deleted")
        return changed

    async def outside(self, prefix: str) -> str:
        """A key that does not begin so; empty if there is none."""
        for first, end in ((b"\0", prefix.encode()), (prefix_end(prefix), b"\0")):
            asked = rpc.RangeRequest(key=first, range_end=end, limit=1, keys_only=True)

            async def send(link: Link, timeout_s: float, asked: Any = asked) -> Any:
                return await link.kv.Range(asked, timeout=timeout_s, metadata=METADATA)

            found = (await self._channels.ask("look for other keys", send, twice=True)).response.kvs
            if found:
                return str(found[0].key.decode(errors="replace"))
        return ""

    async def close(self) -> None:
        await self._channels.close()

    async def _apply_role(self, role: EtcdRole) -> list[str]:
        wanted, changed = _wanted(role.rights), []
        found = await self._spans(role.name)
        if found is None:
            add = rpc.AuthRoleAddRequest(name=role.name)
            if await self._done(f"add role {role.name}", "RoleAdd", add, Exists):
                changed.append(f"role {role.name} added")
            found = await self._spans(role.name) or {}
        for (key, end), kind in wanted.items():
            if found.get((key, end)) == kind:
                continue
            right = rpc.Permission(permType=kind, key=key.encode(), range_end=end.encode())
            grant = rpc.AuthRoleGrantPermissionRequest(name=role.name, perm=right)
            await self._ask(f"role {role.name}", "RoleGrantPermission", grant)
            changed.append(f"role {role.name} may {' and '.join(_KINDS[kind])} {_named(key, end)}")
        for key, end in found.keys() - wanted.keys():
            revoke = rpc.AuthRoleRevokePermissionRequest(
                role=role.name, key=key.encode(), range_end=end.encode()
            )
            if await self._done(f"role {role.name}", "RoleRevokePermission", revoke, NotFound):
                changed.append(f"role {role.name} loses {_named(key, end)}")
        return changed

    async def _apply_user(self, user: str, wanted: frozenset[str]) -> list[str]:
        changed = []
        found = await self.roles_of(user)
        if found is None:
            # The field of a password stays empty: etcd then knows this user by certificate only.
            add = rpc.AuthUserAddRequest(name=user, options=rpc.UserAddOptions(no_password=True))
            if await self._done(f"add user {user}", "UserAdd", add, Exists):
                changed.append(f"user {user} added")
            found = await self.roles_of(user) or frozenset()
        for role in sorted(wanted - found):
            grant = rpc.AuthUserGrantRoleRequest(user=user, role=role)
            await self._ask(f"grant {role} to {user}", "UserGrantRole", grant)
            changed.append(f"user {user} gets role {role}")
        for role in sorted(found - wanted):
            revoke = rpc.AuthUserRevokeRoleRequest(name=user, role=role)
            if await self._done(f"take {role} from {user}", "UserRevokeRole", revoke, NotFound):
                changed.append(f"user {user} loses role {role}")
        return changed

    async def _spans(self, role: str) -> dict[Span, int] | None:
        try:
            answer = await self._ask(f"role {role}", "RoleGet", rpc.AuthRoleGetRequest(role=role))
        except NotFound:
            return None
        return {(one.key.decode(), one.range_end.decode()): one.permType for one in answer.perm}

    async def _done(self, what: str, method: str, request: Any, already: type[Exception]) -> bool:
        """False if it was so before, also by the first try of this very request."""
        try:
            await self._ask(what, method, request)
        except already:
            return False
        return True

    async def _ask(self, what: str, method: str, request: Any) -> Any:
        async def send(link: Link, timeout_s: float) -> Any:
            return await getattr(link.auth, method)(request, timeout=timeout_s, metadata=METADATA)

        return (await self._channels.ask(what, send, twice=True)).response


def _wanted(rights: Iterable[Right]) -> dict[Span, int]:
    """etcd has one permission for each range: to read and to write the same one is a third kind."""
    wanted: dict[Span, int] = {}
    for right in rights:
        kind = _READ if right.access == "read" else _WRITE
        span = (right.key, right.end)
        wanted[span] = kind if wanted.get(span, kind) == kind else _BOTH
    return wanted


def _rights(spans: Mapping[Span, int]) -> frozenset[Right]:
    return frozenset(Right(access, key, end) for (key, end), kind in spans.items() for access in _KINDS[kind])


def _named(key: str, end: str) -> str:
    return f"{key} to {end}" if end else key
