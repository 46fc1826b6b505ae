"""A private libvirtd with QEMU in namespaces of its own, and a guest of 512 bytes.

Owns: the processes and folders of one such host; everything ends with the SIGKILL of its init, by pid.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from metastack.ports import ConsoleStream, DiskFormat, DiskSource, DomainSpec, NicSpec

T = TypeVar("T")

INIT = """\
set -e
mount --make-rprivate /
mkdir -p /run/libvirt /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt
mount --bind {d}/run /run/libvirt; mount --bind {d}/etc /etc/libvirt; mount --bind {d}/lib /var/lib/libvirt
mount --bind {d}/log /var/log/libvirt; mount --bind {d}/cache /var/cache/libvirt
mount --bind {d}/passwd /etc/passwd; mount --bind {d}/group /etc/group
# Console locks (/run/lock/LCK..*) hold process numbers, which mean nothing in another pid namespace.
mount -t tmpfs tmpfs /run/lock
mount -t proc proc /proc; hostname {name}
ip link set lo up; ip link add br0 type bridge; ip addr add 10.99.0.1/24 dev br0; ip link set br0 up
virtlogd -d -p /run/libvirt/virtlogd.pid
libvirtd -d -p /run/libvirt/libvirtd.pid
echo ok > /run/libvirt/init-done
while :; do sleep 3600 & wait $!; done
"""

LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_level = 3
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""

QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
"""

USER = "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n"
GROUP = "libvirt-qemu:x:64055:\n"

# Prints a line, then echoes what it is sent, and: q powers off, p panics (pvpanic), r resets, w writes a
# sector and answers W or E. Follows the ACPI power button. Waits by the BIOS (10 ms), so it costs no processor.
# Source: 16-bit; PM1 registers at 0x600 (SeaBIOS), COM1 at 0x3f8, pvpanic at 0x505.
TINY_GUEST = (
    bytes.fromhex(
        "31c08ed88ec08ed0bc007c8816007aba0206b80001efbe007dac08c07405e86e00ebf6ba0006eda90001752dbafd03ec"
        "a801750cb8008631c9ba1027cd15ebe3baf803ec3c7174113c7074173c72741c3c77741fe83800ebcaba0406b80020ef"
        "f4ebfdba0505b001eef4ebfdb0fee664f4ebfdb80103b9020031d28a16007abb007ccd13b0577302b045e80200eb9450"
        "bafd03eca82074fb58baf803eec300000000000000000000000000000000000000000000000000000000000000000000"
        "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000054494e592047554553542055500d0a0000"
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)


class LibvirtHost:
    """One simulated compute host."""

    def __init__(self, folder: Path, name: str = "hv1") -> None:
        self.folder = folder
        self.name = name
        self.uuid = str(uuid.uuid4())
        self._unshare: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.folder}/run/libvirt-sock"

    @property
    def init_pid(self) -> int:
        assert self._unshare is not None
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        return int(children[0])

    def start(self) -> None:
        for part in ("run", "etc", "lib", "log/qemu", "cache", "disks", "vnc"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "etc/libvirtd.conf").write_text(LIBVIRTD_CONF.format(uuid=self.uuid))
        (self.folder / "etc/qemu.conf").write_text(QEMU_CONF)
        (self.folder / "etc/libvirt.conf").touch()
        (self.folder / "etc/virtlogd.conf").write_text('log_outputs = "3:file:/var/log/libvirt/virtlogd.log"\n')
        # libvirtd refuses to start without this user, although it never uses it here; a package makes it
        # on a real host. The machine's own files stay as they are.
        for file, line in (("passwd", USER), ("group", GROUP)):
            text = Path("/etc", file).read_text()
            (self.folder / file).write_text(text if "\nlibvirt-qemu:" in text else text + line)
        init = self.folder / "init.sh"
        init.write_text(INIT.format(d=self.folder, name=self.name))
        with (self.folder / "init.log").open("wb") as log:
            self._unshare = subprocess.Popen(
                [
                    *("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork"),
                    *("--kill-child=SIGKILL", "sh", str(init)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(
            lambda: (self.folder / "run/libvirt-sock").exists() and (self.folder / "run/init-done").exists(),
            20,
            lambda: (self.folder / "init.log").read_text(),
        )

    def stop(self) -> None:
        """Power cut, then remove every file."""
        if self._unshare is not None:
            if self.inside("test", "-d", f"/proc/{self.libvirtd_pid()}").returncode:
                print("libvirtd is dead:", (self.folder / "log/libvirtd.log").read_text()[-4000:])
            try:
                os.kill(self.init_pid, signal.SIGKILL)
            except (ProcessLookupError, IndexError, FileNotFoundError):
                pass
            self._unshare.kill()
            self._unshare.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- inside

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the host's namespaces."""
        return subprocess.run(
            ["nsenter", "-t", str(self.init_pid), "-m", "-u", "-i", "-n", "-p", *command],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def libvirtd_pid(self) -> int:
        """As seen inside."""
        return int((self.folder / "run/libvirtd.pid").read_text())

    def kill_libvirtd(self) -> None:
        self.inside("kill", "-9", str(self.libvirtd_pid()))

    def start_libvirtd(self) -> None:
        done = self.inside("libvirtd", "-d", "-p", "/run/libvirt/libvirtd.pid")
        assert done.returncode == 0, done.stderr

    def barrier_command(self) -> tuple[str, ...]:
        """What restarts libvirtd, as an operator's script would."""
        script = self.folder / "barrier.sh"
        script.write_text(
            "set -e\npid=$(cat /run/libvirt/libvirtd.pid)\nkill -9 $pid 2>/dev/null || true\n"
            "while [ -d /proc/$pid ] && ! grep -q '^State:.Z' /proc/$pid/status; do sleep 0.01; done\n"
            "exec libvirtd -d -p /run/libvirt/libvirtd.pid\n"
        )
        return ("nsenter", "-t", str(self.init_pid), "-m", "-u", "-i", "-n", "-p", "sh", str(script))

    def qemu_pid(self, vm_uuid: str) -> int:
        """Of the VM's QEMU, as seen outside."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if command[0].endswith(b"qemu-system-x86_64") and vm_uuid.encode() in command:
                    return int(entry.name)
        raise AssertionError(f"no QEMU of {vm_uuid}")

    def disk(self, name: str, boot_sector: bytes = TINY_GUEST) -> Path:
        path = self.folder / "disks" / f"{name}.raw"
        with path.open("wb") as disk:
            disk.write(boot_sector)
            disk.truncate(1 << 20)
        return path


def until(found: Callable[[], T], deadline_s: float, seen: Callable[[], object]) -> T:
    """Poll until true; say what was seen when it never is."""
    end = time.monotonic() + deadline_s
    while True:
        result = found()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s; seen: {seen()}")
        time.sleep(0.02)


def spec(disk: Path, name: str = "tiny", *, nic: bool = False, run: int = 1) -> DomainSpec:
    """A VM of the smallest kind on that disk."""
    nics = (NicSpec(mac="52:54:00:12:34:56", bridge="br0"),) if nic else ()
    return DomainSpec(
        uuid=str(uuid.uuid4()),
        project="default",
        name=name,
        cpus=1,
        memory_mib=32,
        disk=DiskSource(kind="file", format=DiskFormat.RAW, path=str(disk)),
        nics=nics,
        session=11,
        epoch=22,
        run=run,
        volume_uuid=str(uuid.uuid4()),
        claim_node="hv1",
    )


async def read_until(console: ConsoleStream, wanted: bytes, deadline_s: float = 30) -> bytes:
    """Read a console until the text came, or say what came instead."""
    seen = b""
    try:
        async with asyncio.timeout(deadline_s):
            while wanted not in seen:
                data = await console.read()
                assert data, f"console ended; seen: {seen!r}"
                seen += data
    except TimeoutError:
        raise AssertionError(f"no {wanted!r} within {deadline_s} s; seen: {seen!r}") from None
    return seen


@pytest.fixture(scope="session")
def host() -> Iterator[LibvirtHost]:
    missing = [tool for tool in ("libvirtd", "virtlogd", "unshare", "nsenter") if not shutil.which(tool)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root with namespaces and libvirtd; missing: {missing or 'root'}")
    host = LibvirtHost(Path(tempfile.mkdtemp(prefix="mshv")))
    try:
        host.start()
        yield host
    finally:
        host.stop()
