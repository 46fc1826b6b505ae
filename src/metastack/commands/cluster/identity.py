"""Rights in etcd: the first application of users and roles, and every later one.

Owns: the order of steps, and what is checked before the first. Refuses: making certificates (pki/).
Rule: rights are switched on last, after it is proven that root's certificate is known and that etcd demands
one: an etcd that demands none would afterwards refuse everybody, root included. Each step may run twice, so a
first application that died anywhere is finished by the next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from metastack.core.etcd_roles import EtcdRole, cluster_roles, node_role
from metastack.core.model import ClusterConfig
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys, Kind
from metastack.core.state.record_versions import LEVEL
from metastack.core.transaction import Guard, Lease, Put
from metastack.pki.subject import Subject, SubjectKind, parse, subject

from ..problem import Code, Problem, conflict, usage
from ..request import Cluster, Plan, Request, Unchanged, commit

OBJECT: Final = "etcd"
_ENDPOINTS: Final = "give every member's https endpoint with --endpoint"


class EtcdAccounts(Protocol):
    """Users and roles of etcd (the etcd adapter's EtcdUsers)."""

    async def enabled(self) -> bool: ...
    async def enable(self) -> list[str]: ...
    async def read(self) -> Any: ...
    async def apply(
        self, roles: Iterable[EtcdRole] = (), users: Mapping[str, Collection[str]] | None = None
    ) -> list[str]: ...
    async def remove(self, users: Iterable[str] = (), roles: Iterable[str] = ()) -> list[str]: ...
    async def outside(self, prefix: str) -> str: ...


class MemberAnswer(Protocol):
    """What a member of etcd answered."""

    @property
    def endpoint(self) -> str: ...
    @property
    def error(self) -> str: ...


def check_endpoints(endpoints: Sequence[str]) -> None:
    """Raise Problem unless every endpoint is one that a certificate can be shown to."""
    if not endpoints:
        raise usage("", "no etcd endpoint is given", _ENDPOINTS)
    for endpoint in endpoints:
        if endpoint.startswith(("http://", "unix:")):
            raise usage(f"endpoint {endpoint}", "is plaintext: etcd sees no certificate there", _ENDPOINTS)


def check_members(known: Sequence[MemberAnswer], unknown: Sequence[MemberAnswer], ca: str) -> None:
    """Judge the members by what they answered to root's certificate and to nobody's; raises Problem."""
    for one in known:
        if one.error:
            raise Problem(
                Code.UNREACHABLE,
                f"etcd {one.endpoint}",
                f"does not answer to a certificate of the CA {ca}: {one.error}",
                "its --trusted-ca-file, and the CA of its own certificate, must be this CA: "
                "`metastack pki issue etcd NAME --host HOST`, then repeat",
            )
    for one in unknown:
        if not one.error:
            raise conflict(
                f"etcd {one.endpoint}",
                "serves clients without a certificate: with rights on it would refuse all of them",
                "start it with --client-cert-auth and --trusted-ca-file, then repeat",
            )


async def secure(cluster: Cluster, accounts: EtcdAccounts, admin: Subject, request: Request) -> list[str]:
    """Make this etcd the cluster's: roles, root, the first admin, settings, rights on; what changed."""
    await _refuse_others(cluster.keys, accounts)
    root = subject(SubjectKind.ROOT)
    changed = await accounts.apply(users={root.user: root.etcd_roles()})
    changed += await _settings(cluster, request)
    changed += await apply_rights(cluster, accounts)
    changed += await accounts.apply(users={admin.user: admin.etcd_roles()})
    return changed + await accounts.enable()


async def admit(cluster: Cluster, accounts: EtcdAccounts, subjects: Iterable[Subject]) -> list[str]:
    """Make users of holders of certificates, with their roles and no others; what changed."""
    known = [one for one in subjects if one.etcd_roles()]
    nodes = [node_role(cluster.keys, one.name) for one in known if one.kind is SubjectKind.NODE]
    return await accounts.apply(nodes, {one.user: one.etcd_roles() for one in known})


async def apply_rights(cluster: Cluster, accounts: EtcdAccounts, people: Iterable[Subject] = ()) -> list[str]:
    """Make every role what this release and the settings say, and each node's roles its own; what changed.

    ``people``: operators and services with a good certificate; they become users, too.
    """
    keys, config = cluster.keys, await cluster.config()
    nodes = {
        user: found
        for user in (await accounts.read()).users
        if (found := parse(user)) is not None and found.kind is SubjectKind.NODE
    }
    roles = [
        *cluster_roles(keys, fences_living=config.storage_lost_s > 0),
        *(node_role(keys, found.name) for found in nodes.values()),
    ]
    changed = await accounts.apply(roles, {user: found.etcd_roles() for user, found in nodes.items()})
    return changed + await admit(cluster, accounts, people)


async def _settings(cluster: Cluster, request: Request) -> list[str]:
    """The settings' record of a new cluster, so that it writes records of this release from the beginning."""
    key = cluster.keys.cluster()
    if (await cluster.store.list(key, cluster.keys.prefix(Kind.NODE_FACTS))).entries:
        return []  # older agents may be among its nodes: `cluster upgrade-finish` raises the level
    cluster.known.level = LEVEL

    async def look() -> Plan[list[str]] | Unchanged[list[str]]:
        if await cluster.store.get(key) is not None:
            return Unchanged([])
        return Plan(
            guards=(Guard(key, "mod", 0),),
            effects=(Put(key, encode(ClusterConfig(record_version=LEVEL))),),
            what="cluster.init",
            object="cluster",
            answer=["settings written"],
        )

    return await commit(cluster, request, look)


async def revoke_user(cluster: Cluster, accounts: EtcdAccounts, user: str) -> list[str]:
    """Delete a user that has no certificate any more, with the role that is its own; what changed.

    etcd lets everybody renew a lease, so an agent without rights would stay alive and keep its VMs for ever. A
    node's lease is therefore revoked. Safety: that is a lease that expired early: the agent sees it gone and
    ends its session, and other nodes fence the node before they take its VMs. It cannot join again, because
    its user was deleted before.
    """
    found = parse(user)
    node = found.name if found is not None and found.kind is SubjectKind.NODE else ""
    own = [user] if node or (found is not None and found.kind is SubjectKind.JOIN) else []
    changed = await accounts.remove([user], own)
    alive = await cluster.store.get(cluster.keys.node_alive(node)) if node else None
    if alive is not None and alive.lease:
        await cluster.store.revoke(Lease(id=alive.lease, ttl_s=0, deadline_s=0.0))
        changed.append(f"node {node} is lost: others fence it and take its VMs")
    return changed


async def _refuse_others(keys: Keys, accounts: EtcdAccounts) -> None:
    """An etcd with rights serves one cluster: names of roles and users exist once in it."""
    prefix, hint = keys.prefix(), "give this cluster an etcd of its own"
    if other := await accounts.outside(prefix):
        raise conflict(OBJECT, f"serves something else already: it has the key {other}", hint)
    ours = {role.name for role in cluster_roles(keys)}
    for name, rights in (await accounts.read()).roles.items():
        if name in ours or name.startswith(("node.", "join.")):
            for right in rights:
                if not right.key.startswith(prefix.rstrip("/")):
                    raise conflict(
                        OBJECT, f"belongs to another cluster: its role {name} is for {right.key}", hint
                    )
