"""The proof of KVM: what the probe guest is told to run, and what each outcome says."""

from __future__ import annotations

import asyncio
import json
import stat
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from test_hypervisor_xml import FILE

from metastack.hypervisor import kvm_probe as kvm
from metastack.hypervisor.libvirt import domain_xml as xml

REFUSES_HOST = """case "$*" in
*-arch-capabilities*) exit 85 ;;
*) echo "error: failed to set MSR 0x10a" >&2; exit 1 ;;
esac"""


def emulator(folder: Path, script: str) -> str:
    """A program in QEMU's place."""
    path = folder / "qemu"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    ("script", "kind", "arch_capabilities", "says"),
    [
        ("exit 85", "kvm", True, "a probe guest ran under KVM (-cpu host)"),
        (REFUSES_HOST, "kvm", False, "a probe guest ran under KVM (-cpu host,-arch-capabilities)"),
        (
            "echo 'KVM internal error. Suberror: 1' >&2; exec sleep 60",
            "qemu",
            True,
            "it died of a KVM internal error",
        ),
        ("exit 3", "qemu", True, "with -cpu host it ended with status 3"),
    ],
)
async def test_what_is_proven(
    tmp_path: Path, script: str, kind: str, arch_capabilities: bool, says: str
) -> None:
    found = await kvm.probe(emulator(tmp_path, script), device="/dev/null")
    assert (found.kind, found.arch_capabilities) == (kind, arch_capabilities)
    assert says in found.why


def test_an_answer_of_an_older_proof_is_asked_for_again(tmp_path: Path) -> None:
    cache, program = tmp_path / "kvm.json", emulator(tmp_path, "exit 3")
    found = Path(program).stat()
    old = {
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "qemu": f"{program} {found.st_size} {found.st_mtime_ns}",
        "kind": "kvm",
        "why": "of a weaker proof",
    }
    cache.write_text(json.dumps(old))
    fresh = asyncio.run(kvm.probe(program, str(cache), device="/dev/null"))
    assert fresh.kind == "qemu"
    cached = json.loads(cache.read_text())
    assert (cached["kind"], cached["why"]) == ("qemu", fresh.why)


def test_guests_get_the_cpu_that_was_proven() -> None:
    plain = ET.fromstring(xml.build(FILE, accel="kvm", vnc_dir="", arch_capabilities=True)).find("cpu")
    without = ET.fromstring(xml.build(FILE, accel="kvm", vnc_dir="", arch_capabilities=False)).find("cpu")
    assert plain is not None and without is not None
    assert plain.find("feature") is None
    feature = without.find("feature")
    assert feature is not None
    assert feature.attrib == {"policy": "disable", "name": "arch-capabilities"}
