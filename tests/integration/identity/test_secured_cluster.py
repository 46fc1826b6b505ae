"""Agents and commands on an etcd with TLS and rights: each with its own certificate and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from management_host import Host
from msgspec.structs import replace
from secured_nodes import KEYS, Node, nodes, until
from structlog.testing import capture_logs

from metastack.core.etcd_roles import node_role
from metastack.pki.files import read, write
from metastack.pki.folder import CaFolder
from metastack.pki.subject import SubjectKind, subject
from metastack.settings import StoreSettings
from metastack.storage.twin import MemoryPool

pytestmark = [pytest.mark.etcd, pytest.mark.proof]
N1 = subject(SubjectKind.NODE, "n1")
OTTO = subject(SubjectKind.OPERATOR, "otto", "operator")
CREATE = ("vm", "create", "web", "--image", "tiny", "--cpus", "1", "--memory", "512MiB", "--no-wait")


async def test_an_operators_vm_survives_its_node(cluster: Host) -> None:
    await cluster.known_as(OTTO)
    async with nodes(cluster) as made:
        answer = await cluster.asks("otto", *CREATE)
        assert answer.status == 0, answer
        await until(lambda: any(node.runs() for node in made), "the VM runs")
        first = next(node for node in made if node.runs())
        await first.power_cut()
        others = [node for node in made if node is not first]
        await until(lambda: any(node.runs() == ["web"] for node in others), "another node runs it")
        shown = (await cluster.asks("otto", "vm", "show", "web")).json()
        assert shown["node"] in {node.name for node in others}


async def test_a_revoked_node_is_lost_and_its_vm_moves(cluster: Host) -> None:
    await cluster.known_as(OTTO)
    async with nodes(cluster) as made:
        assert (await cluster.asks("otto", *CREATE)).status == 0
        await until(lambda: any(node.runs() for node in made), "the VM runs")
        first = next(node for node in made if node.runs())
        answer = await cluster.run(
            *("pki", "revoke", f"node.{first.name}", "--reason", "stolen", "--yes", *cluster.ca),
            *("--context", "lab"),
        )
        assert answer.status == 0, answer
        assert f"node {first.name} is lost" in answer.err
        others = [node for node in made if node is not first]
        await until(lambda: any(node.runs() == ["web"] for node in others), "another node runs it")
        await until(lambda: not first.ready, "the revoked node's session is over")
        shown = (await cluster.asks("otto", "vm", "show", "web")).json()
        assert shown["node"] in {node.name for node in others}


def expired(host: Host) -> StoreSettings:
    return host.secured.expired(N1)


def other_ca(host: Host) -> StoreSettings:
    other = CaFolder.make(host.secured.folder / "other", "other", lambda: datetime.now(UTC))
    return replace(
        host.secured.reached_with(host.secured.files(N1, ca=other)), ca=str(host.secured.ca.path / "ca.crt")
    )


def no_user(host: Host) -> StoreSettings:
    return host.secured.settings(N1)


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        (expired, "(node.n1): expired 86"),
        (other_ca, "is not signed by the CA"),
        (no_user, "node.n1 may not: etcdserver: permission denied"),
    ],
)
async def test_an_agent_logs_why_it_is_refused(
    cluster: Host, flaw: Callable[[Host], StoreSettings], said: str
) -> None:
    node = Node(cluster, MemoryPool(), 1, flaw(cluster))
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            node.start(group)
            await until(lambda: any(said in str(entry.get("error")) for entry in logs), said)
            await node.power_cut()
    assert not node.ready


async def test_an_agent_recovers_when_its_certificate_is_renewed(cluster: Host) -> None:
    secured = cluster.secured
    async with secured.users() as users:
        await users.apply([node_role(KEYS, "n1")])
    await secured.admit(N1)
    settings = secured.expired(N1)
    node, renewed = Node(cluster, MemoryPool(), 1, settings), secured.files(N1)
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            node.start(group)
            await until(lambda: any("expired 86" in str(entry.get("error")) for entry in logs), "it is refused")
            write(Path(settings.key), read(renewed.key), 0o600)
            write(Path(settings.cert), read(renewed.cert), 0o600)
            await until(lambda: node.ready, "it joins")
            await node.power_cut()
    assert any(entry["event"] == "etcd_certificate_reloaded" for entry in logs)
