"""``secret``: values that etcd holds encrypted.

Owns: validation, one transaction for each verb, and what a reader learns of a secret, which is never its value.
Refuses: the keyring's file (:mod:`metastack.commands.cluster.secret_keys`).
Rule: a value is encrypted under a key only once every live node has that key.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from metastack.core.model import NodeAlive, Secret
from metastack.core.state.cluster_state import Seen, seen
from metastack.core.state.codec import encode
from metastack.core.state.keys import Kind
from metastack.core.transaction import Delete, Guard, Put
from metastack.secrets.envelope import OVERHEAD, NoKey, Unopened, seal, unseal
from metastack.secrets.keyring import Keyring

from .. import names
from ..problem import Code, Problem, all_of, conflict, not_found, usage
from ..request import Cluster, Plan, Request, Unchanged, broken, commit, readable

_LIST = "`metastack secret list` shows the secrets"


class SecretView(Struct, kw_only=True):
    """A secret as a reader sees it."""

    name: str
    key: str | None = None
    """Id of the key that it is encrypted under."""
    size_bytes: int | None = None
    at: str | None = None
    """When its value was put."""
    by: str | None = None
    reason: str | None = None
    message: str | None = None
    broken: bool = False


def object_of(name: str) -> str:
    return f"secret {name}"


def view_of(name: str, found: Seen[Secret]) -> SecretView:
    """What anybody may know who may list it. Pure."""
    secret = found.record
    if secret is None:
        return SecretView(name=name, broken=True, message=f"unreadable record, ignored: {found.why}")
    return SecretView(
        name=name,
        key=secret.key_id,
        size_bytes=max(0, len(secret.value) - OVERHEAD),
        at=secret.at or None,
        by=secret.by or None,
        reason=secret.reason or None,
    )


async def put_secret(
    cluster: Cluster, request: Request, keyring: Keyring, name: str, value: bytes, force: bool = False
) -> SecretView:
    """Make a secret, or replace its value. ``force``: although live nodes lack the newest key."""
    names.name("secret", name)
    names.reason(request.reason)
    key = cluster.keys.secret(name)
    try:
        sealed = seal(keyring, key, value)
    except ValueError as error:
        raise usage(object_of(name), str(error)) from None
    await _need_everywhere(cluster, keyring, force)
    record = replace(sealed, at=request.at, by=request.by, reason=request.reason, request_id=request.request_id)

    async def look() -> Plan[SecretView]:
        # It replaces whatever is there: to compare would need the right to read.
        return Plan(
            guards=(),
            effects=(Put(key, encode(record)),),
            what="secret.put",
            object=object_of(name),
            message=f"{len(value)} bytes, key {record.key_id}",
            answer=view_of(name, Seen(record, 0, 0)),
        )

    return await commit(cluster, request, look)


async def list_secrets(cluster: Cluster) -> list[SecretView]:
    """Every secret, by name."""
    return [view_of(name, found) for name, found in await _all(cluster)]


async def show_secret(cluster: Cluster, name: str) -> SecretView:
    """One secret; raises Problem when it does not exist."""
    names.name("secret", name)
    found = await cluster.read(Secret, cluster.keys.secret(name))
    if found is None:
        raise not_found(object_of(name), _LIST)
    return view_of(name, found)


async def delete_secret(cluster: Cluster, request: Request, name: str) -> None:
    """Delete it, readable or not."""
    names.name("secret", name)
    names.reason(request.reason)
    key = cluster.keys.secret(name)

    async def look() -> Plan[None]:
        entry = await cluster.store.get(key)
        if entry is None:
            raise not_found(object_of(name), _LIST)
        return Plan(
            guards=(Guard(key, "mod", entry.mod_revision),),
            effects=(Delete(key),),
            what="secret.delete",
            object=object_of(name),
            answer=None,
        )

    await commit(cluster, request, look)


async def rotate_secrets(
    cluster: Cluster,
    request: Request,
    keyring: Keyring,
    force: bool = False,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[SecretView]:
    """Encrypt under the newest key what is not yet; answers what was.

    Each secret is a transaction of its own, so that a rotation which died is finished by the next one. Raises
    Problem at the end for secrets that could not be opened; they stay as they are.
    """
    names.reason(request.reason)
    newest = keyring.newest.id
    due = [name for name, found in await _all(cluster) if found.record is None or found.record.key_id != newest]
    if due:
        await _need_everywhere(cluster, keyring, force)
    done: list[SecretView] = []
    failed: list[Problem] = []
    for count, name in enumerate(due, 1):
        try:
            view = await _rotate(cluster, request, keyring, name)
            done += [view] if view is not None else []
        except Problem as problem:
            failed.append(problem)
        told(count, len(due))
    if failed:
        raise all_of(failed)
    return done


async def _rotate(cluster: Cluster, request: Request, keyring: Keyring, name: str) -> SecretView | None:
    key = cluster.keys.secret(name)

    async def look() -> Plan[SecretView | None] | Unchanged[SecretView | None]:
        found = await cluster.read(Secret, key)
        if found is None:
            return Unchanged(None)
        old = readable(found, object_of(name))
        if old.key_id == keyring.newest.id:
            return Unchanged(None)
        new = seal(keyring, key, open_secret(keyring, key, name, old))
        record = replace(old, key_id=new.key_id, data_key=new.data_key, value=new.value)
        return Plan(
            # Safety: the value of a put that came meanwhile is not replaced by the one before it.
            guards=(Guard(key, "mod", found.mod),),
            effects=(Put(key, encode(record)),),
            what="secret.rotate",
            object=object_of(name),
            message=f"key {old.key_id} to {record.key_id}",
            answer=view_of(name, Seen(record, 0, 0)),
        )

    return await commit(cluster, request, look, step=name)


def open_secret(keyring: Keyring, key: str, name: str, secret: Secret) -> bytes:
    """Its value; raises Problem."""
    try:
        return unseal(keyring, key, secret)
    except NoKey as error:
        hint = "copy the keyring from a host that has this key: `metastack secret key add FILE`"
        raise Problem(Code.FAILED, object_of(name), str(error), hint) from None
    except Unopened as error:
        hint = f"put its value again: `metastack secret put {name}`"
        raise Problem(Code.FAILED, object_of(name), str(error), hint) from None


async def _all(cluster: Cluster) -> list[tuple[str, Seen[Secret]]]:
    prefix = cluster.keys.prefix(Kind.SECRET)
    snapshot = await cluster.store.list(prefix)
    return [(entry.key.removeprefix(prefix), seen(Secret, entry)) for entry in snapshot.entries]


async def _need_everywhere(cluster: Cluster, keyring: Keyring, force: bool) -> None:
    """Raise Problem when a live node lacks the newest key: it could not read what is encrypted under it."""
    prefix, key_id = cluster.keys.prefix(Kind.NODE_ALIVE), keyring.newest.id
    lacking = []
    for entry in (await cluster.store.list(prefix)).entries if not force else ():
        alive = seen(NodeAlive, entry).record
        if alive is None or key_id not in alive.secret_keys:
            lacking.append(entry.key.removeprefix(prefix))
    if lacking:
        raise conflict(
            f"key {key_id}",
            f"is missing on live nodes, which could not read the secret: {', '.join(lacking)}",
            "copy the keyring to them and wait half a minute, or use --force",
        )


async def key_users(cluster: Cluster, key_id: str) -> list[str]:
    """Secrets that are encrypted under a key; raises Problem when a record cannot be read."""
    found = await _all(cluster)
    for name, one in found:
        if one.record is None:
            raise broken(object_of(name), one.why)
    return [name for name, one in found if one.record is not None and one.record.key_id == key_id]
