"""libvirtd killed in the middle of a start: is there ever a QEMU that the restarted one does not know?

The barrier (session: restart libvirtd after an unclean exit, then look) rests on the answer being no.
``METASTACK_SAFETY_ROUNDS`` asks for more rounds; the figures are quoted in docs/lab/safety.md.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "hypervisor"))

from libvirt_host import LibvirtHost, until

from metastack.hypervisor.libvirt.domain_xml import NAMESPACE
from metastack.hypervisor.libvirt.restart_barrier import forget_phantoms

pytestmark = [
    pytest.mark.proof,
    pytest.mark.libvirt,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("libvirtd"), reason="needs root with namespaces and libvirtd"
    ),
]
ROUNDS = int(os.environ.get("METASTACK_SAFETY_ROUNDS", "20"))
UUID = "7b7c6f3e-4a52-4a4e-9a3b-6f0f6f1a2b3c"
XML = """\
<domain type='qemu'><name>tiny</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<metadata><m:domain xmlns:m='{namespace}'/></metadata>
<os><type arch='x86_64' machine='pc'>hvm</type></os><on_crash>destroy</on_crash>
<devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>
<target dev='vda' bus='virtio'/></disk><memballoon model='none'/></devices></domain>
"""


@pytest.fixture(scope="module")
def own_host() -> Iterator[LibvirtHost]:
    host = LibvirtHost(Path(tempfile.mkdtemp(prefix="mslk")), "hvk")
    try:
        host.start()
        yield host
    finally:
        host.stop()


def qemus(host: LibvirtHost) -> list[int]:
    """Processes of our guest that live (not zombies), as seen outside; also those before their exec."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0].endswith(b"qemu-system-x86_64") and UUID.encode() in command:
            found.append(int(entry.name))
    return found


def virsh(host: LibvirtHost, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["virsh", "-q", "-c", host.uri, *words], capture_output=True, text=True, timeout=60, check=False
    )


def known(host: LibvirtHost) -> bool:
    """libvirt says that the guest is active."""
    return UUID in virsh(host, "list", "--uuid").stdout


def forks(host: LibvirtHost) -> list[int]:
    """Children of a dead libvirtd that never became QEMU: they could still."""
    space, daemon, found = os.readlink(f"/proc/{host.init_pid}/ns/pid"), host.libvirtd_pid(), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.readlink(entry / "ns/pid") != space or b"libvirtd" not in (entry / "cmdline").read_bytes():
                continue
            status = (entry / "status").read_text()
        except OSError:
            continue
        if "\nNSpid:" in status and int(status.split("\nNSpid:")[1].split("\n")[0].split()[-1]) != daemon:
            found.append(int(entry.name))
    return found


def clean(host: LibvirtHost) -> None:
    """Neither libvirt nor the machine has the guest any more."""

    def gone() -> bool:
        if known(host):
            virsh(host, "destroy", UUID)
        return not known(host) and not qemus(host)

    until(gone, 180, lambda: (known(host), qemus(host), virsh(host, "domstate", UUID).stdout))


def gone_from(host: LibvirtHost, pid: int) -> bool:
    return host.inside("test", "-d", f"/proc/{pid}/fd").returncode != 0


def restart(host: LibvirtHost, starting: subprocess.Popen[bytes] | None = None) -> int:
    """SIGKILL libvirtd and start it again; how many QEMUs there were in between."""
    pid = host.libvirtd_pid()
    host.kill_libvirtd()
    if starting is not None:
        starting.wait(60)
    alive = len(qemus(host))
    # As the barrier does: the old one must be gone, or the new one finds its pid file locked and ends.
    until(partial(gone_from, host, pid), 20, lambda: "the killed libvirtd is still there")
    host.start_libvirtd()
    # The daemon answers as soon as it listens; it may still be reconnecting to its guests.
    until(lambda: virsh(host, "list").returncode == 0, 60, lambda: virsh(host, "list").stderr)
    return alive


def test_no_qemu_is_invisible_afterwards(own_host: LibvirtHost) -> None:
    host = own_host
    xml = host.folder / "tiny.xml"
    xml.write_text(XML.format(uuid=UUID, namespace=NAMESPACE, disk=host.disk("tiny")))
    assert virsh(host, "define", str(xml)).returncode == 0
    begun = time.monotonic()
    assert virsh(host, "start", UUID).returncode == 0
    start_s = time.monotonic() - begun
    clean(host)
    dice, seen, invisible, phantoms = random.Random(7), Counter[str](), [], 0
    for n in range(ROUNDS):
        starting = subprocess.Popen(
            ["virsh", "-q", "-c", host.uri, "start", UUID], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_s = dice.uniform(0, start_s * 1.2)
        time.sleep(wait_s)
        at_death = restart(host, starting)
        # What the agent's barrier does besides: drop notes of starts that never came to a fork.
        phantom = forget_phantoms(host.uri)
        if phantom:
            phantoms += 1
            restart(host)
        first = (known(host), len(qemus(host)), len(forks(host)))
        time.sleep(1)  # not a wait for something: what is dead for so long will not come to life
        # Counted before libvirt is asked: a guest that ends between the two looks is not invisible.
        alive, forked = len(qemus(host)), len(forks(host))
        state = (known(host), alive, forked)
        if not state[0] and (alive or forked):
            invisible.append((n, round(wait_s, 4), state))
        seen[f"qemu at the kill: {at_death}; known/qemu/forks at once: {first}, a second later: {state}"] += 1
        print(f"round {n}: {wait_s:.3f} s; {at_death} then, {first} at once, {state} later", flush=True)
        clean(host)
        assert not qemus(host)
    print(f"{ROUNDS} rounds, a start takes {start_s:.2f} s, {phantoms} starts noted and never forked")
    for what, count in sorted(seen.items()):
        print(f"  {count:4} {what}")
    assert not invisible, invisible
