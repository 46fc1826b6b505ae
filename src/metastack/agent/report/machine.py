"""Machine facts for placement: architecture, processor features, huge pages; and the operating system.

Owns: reading them from the kernel and /etc/os-release. Refuses: what the hypervisor says of itself (HostFacts).
Rule: what cannot be read is left out: a node that does not say what it is is refused by who demands it.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from metastack.core.platforms import system_of

_X86 = """
aes amx_bf16 amx_int8 amx_tile avx avx2 avx512_bf16 avx512_vnni avx512bw avx512cd avx512dq avx512f avx512vl bmi1
bmi2 clflushopt erms f16c fma gfni invpcid movbe pcid pclmulqdq pdpe1gb popcnt rdrand rdseed rdtscp sha_ni
sse4_1 sse4_2 ssse3 svm vaes vmx vpclmulqdq xsave xsavec xsaveopt
"""
_ARM = "aes asimd atomics bf16 i8mm pmull sha1 sha2 sha3 sha512 sve sve2"
FEATURES: Final = frozenset(f"{_X86} {_ARM}".split())
"""Flags that a workload may ask for. All others would only make the record of each node longer."""


class Machine(Struct, frozen=True, kw_only=True):
    """What the kernel says of this host."""

    arch: str = ""
    """As ``uname -m`` says it."""
    cpu_features: tuple[str, ...] = ()
    """Of :data:`FEATURES` those that every processor has, sorted."""
    resources: dict[str, int] = field(default_factory=dict)
    """Whole amounts beside vCPU and memory: ``hugepages_2m``, ``hugepages_1g``."""
    versions: dict[str, str] = field(default_factory=dict)
    """``os``: ID and number of the operating system, such as ``debian 13``; absent when it cannot be read."""


def machine(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Machine:
    """Look at this host."""
    return Machine(
        arch=os.uname().machine,
        cpu_features=_features(proc / "cpuinfo"),
        resources=_hugepages(sys),
        versions=_versions(),
    )


def _features(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    common: frozenset[str] | None = None
    for line in lines:
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            these = FEATURES & set(flags.split())
            common = these if common is None else common & these
    return tuple(sorted(common or ()))


def _versions() -> dict[str, str]:
    try:
        return {"os": system_of(platform.freedesktop_os_release())}
    except OSError:
        return {}


def _hugepages(sys: Path) -> dict[str, int]:
    found = {}
    for name, kib in (("hugepages_2m", 2048), ("hugepages_1g", 1_048_576)):
        try:
            count = int((sys / f"kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages").read_text())
        except (OSError, ValueError):
            continue
        if count:
            found[name] = count
    return found
