"""Rights in etcd: are they on, and does this etcd enforce them everywhere?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .facts import Facts, Finding, error, info, warning

NESTED: Final = ("nested", "nested failure")


def check(facts: Facts) -> Iterator[Finding]:
    if not facts.members or all(member.endpoint.startswith("unix:") for member in facts.members):
        return  # a store without members, or a one-machine cluster: the socket's mode is its only right
    if facts.rights is None:
        yield warning("etcd", f"it is unknown if it enforces rights: {facts.rights_why}", "metastack doctor")
    elif not facts.rights.on:
        yield warning(
            "etcd", "it enforces no rights: every client may change everything", "metastack cluster init --help"
        )
    elif facts.rights.root:
        yield info(
            "etcd",
            "it is unknown if it enforces rights: root has every right",
            "use a context with an operator's certificate",
        )
    else:
        yield from _passed(facts.rights.passed)


def _passed(places: tuple[str, ...]) -> Iterator[Finding]:
    if open_ := [place for place in places if place not in NESTED]:
        yield error(
            "etcd",
            f"a write that no role allows passed ({', '.join(open_)}): it does not enforce rights",
            "metastack cluster apply-rights",
        )
    if any(place in NESTED for place in places):
        yield warning(
            "etcd",
            "nested transactions bypass its rights: any certificate of the CA reads and writes everything, "
            "also one without a user (GHSA-rfx7-8w68-q57q)",
            "upgrade etcd to 3.4.42, 3.5.28, 3.6.9 or later; until then treat every certificate as an admin's",
        )
