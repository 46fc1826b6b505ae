"""The system below: nodes on one that nobody tested, and libvirt or QEMU older than on any platform."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from metastack.core.platforms import NAMES, PLATFORMS, older, platform_of

from .facts import Facts, Finding, info, warning

OLDEST: Final = PLATFORMS[-1]
LEAST: Final = {"libvirt": OLDEST.libvirt, "qemu": OLDEST.qemu}


def check(facts: Facts) -> Iterator[Finding]:
    if facts.system and platform_of(facts.system) is None:
        yield info("cluster", f"this program runs on {facts.system!r}; tested are {NAMES}")
    for name, alive in facts.alive():
        system, node = alive.versions.get("os", ""), f"node {name}"
        if not system:
            yield info(node, "does not report its operating system", f"metastack node show {name}")
        elif platform_of(system) is None:
            yield warning(node, f"runs {system!r}; tested are {NAMES}", "reinstall the node on Debian 13")
        for part, least in LEAST.items():
            if older(version := alive.versions.get(part, ""), least):
                yield warning(
                    node, f"{part} {version} is older than {least}, the oldest version that was tested"
                )
