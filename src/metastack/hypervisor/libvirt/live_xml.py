"""The live domain: what a domain is made of right now, read back from libvirt's XML.

Owns: the few elements that are compared with what the domain should be. Refuses: judging any of it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Final

from metastack.core.domains import Live

_KIB: Final = {"b": 1 / 1024, "KiB": 1, "k": 1, "MiB": 1024, "M": 1024, "GiB": 1 << 20, "G": 1 << 20}
_ROOT: Final = "vda"


def parse(text: str) -> Live:
    """From a domain's XML."""
    domain = ET.fromstring(text)
    root, others = "", []
    for disk in domain.iterfind("devices/disk"):
        if disk.get("device", "disk") not in ("disk", "lun"):
            continue
        target = disk.find("target")
        name = target.get("dev", "") if target is not None else ""
        if name == _ROOT:
            root = _where(disk.find("source"))
        else:
            others.append(f"{name} ({_where(disk.find('source'))})")
    vcpu = domain.find("vcpu")
    memory = domain.find("memory")
    cpus = int(vcpu.get("current") or vcpu.text or 0) if vcpu is not None else 0
    amount = int((memory.text if memory is not None else "") or 0)
    unit = memory.get("unit", "KiB") if memory is not None else "KiB"
    return Live(
        disk=root,
        others=tuple(others),
        nics=tuple(_nic(nic) for nic in domain.iterfind("devices/interface")),
        cpus=cpus,
        memory_mib=int(amount * _KIB.get(unit, 1)) >> 10,
    )


def _where(source: ET.Element | None) -> str:
    """A path, ``pool/image``, or whatever else the disk is of."""
    if source is None:
        return "nothing"
    return source.get("file") or source.get("name") or source.get("dev") or source.get("volume") or "unknown"


def _nic(nic: ET.Element) -> tuple[str, str]:
    mac, source = nic.find("mac"), nic.find("source")
    bridge = "" if source is None else source.get("bridge") or source.get("network") or source.get("dev") or ""
    return (mac.get("address", "").lower() if mac is not None else "", bridge)
