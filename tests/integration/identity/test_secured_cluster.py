"""Agents and commands on an etcd with TLS and rights: each with its own certificate and no more."""

from __future__ import annotations

import pytest
from management_host import Host
from secured_nodes import nodes, until

from metastack.pki.subject import SubjectKind, subject

pytestmark = [pytest.mark.etcd, pytest.mark.proof]
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
