"""How lost nodes are shut out, and where that is weaker than it could be."""

from __future__ import annotations

from collections.abc import Iterator

from metastack.core.model import Fencing

from .facts import Facts, Finding, info, warning


def check(facts: Facts) -> Iterator[Finding]:
    files = sorted(name for name, alive in facts.alive() if alive.storage == "file")
    if files:
        yield info(
            "cluster",
            f"the file storage of {', '.join(files)} has no remote fence: a takeover waits until "
            "QEMU's lock on the disk is free; all nodes must share the file system",
        )
    if facts.world.config.fencing is Fencing.CLIENT:
        yield from _by_clients(facts, files)


def _by_clients(facts: Facts, files: list[str]) -> Iterator[Finding]:
    nodes: list[str] = []
    users: dict[str, str] = {}
    addresses: list[str] = []
    for name in facts.world.nodes():
        found = facts.world.facts(name)
        if name not in files and found is not None and found.record is not None:
            nodes.append(name)
            users[name] = found.record.storage_guest_user
            addresses += found.record.storage_addresses
    if not nodes:
        return
    shared = len(set(addresses)) < len(addresses)
    yield warning(
        "config fencing",
        "is client: a fence blocks the known clients of a node, not its address. A guest on a hung host "
        "that has not opened its disk when its node is fenced may write later"
        + ("" if shared else "; no two nodes share an address, so address is better"),
        "metastack config set fencing=address" + ("   # once each node has its own address" if shared else ""),
    )
    for name in nodes:
        if not users[name]:
            yield warning(
                f"node {name}",
                "its guests use the agent's cephx user: if its host hangs, a guest that starts after the "
                "fence may still write to a disk that another node uses",
                "set storage.guest_user and storage.guest_keyring in its agent's configuration",
            )
