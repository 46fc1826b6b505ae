"""Nodes that were removed and whose credentials still work, because no ``pki serve`` took them back."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, warning


def check(facts: Facts) -> Iterator[Finding]:
    for node in sorted(facts.removing):
        yield warning(
            f"node {node}",
            "it was removed, and its certificate, etcd user and storage user still work",
            "systemctl start metastack-pki   # on a management host",
        )
