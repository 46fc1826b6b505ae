"""The small guest: a disk image that boots in three seconds, built from Debian's packages without root.

Owns: the image's contents and where it is kept. Refuses: mounting anything, installing anything.
Rule: the name of a finished image is the hash of everything it is made from by us; it appears by rename.

Layout, the same on a disk of any larger size: MBR, FAT16 with the kernel, ext4 ``data``, a 1 MiB raw ring in
which the guest writes one 512-byte record a second. Needs busybox-static, syslinux, mtools, dosfstools,
e2fsprogs, fdisk, cpio, kmod; the kernel is downloaded (``apt-get download``), not installed.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from metastack.ports import Unavailable

INIT = Path(__file__).with_name("guest-init.sh")
BUSYBOX = Path("/bin/busybox")
MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
MIB = 1 << 20
DATA_MIB = 16
_MODULES = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "button",
    "evdev",
    "ext4",
]
_APPEND = (
    "console=ttyS0 quiet loglevel=3 nokaslr mitigations=off no_timer_check random.trust_cpu=on "
    "rcupdate.rcu_expedited=1 tsc=reliable panic=5"
)
_DHCP = """\
#!/bin/sh
case "$1" in bound | renew)
	ip addr flush dev "$interface"
	ip addr add "$ip/${mask:-24}" dev "$interface"
	echo "GUEST dhcp $ip" >/dev/console ;;
esac
"""
_OFF = """\
#!/bin/sh
sync
umount /data 2>/dev/null || mount -o remount,ro /data
exec busybox {verb} -f
"""
_SYSLINUX = f"""\
SERIAL 0 115200
DEFAULT l
PROMPT 0
TIMEOUT 0
LABEL l
 KERNEL /vmlinuz
 INITRD /initrd.gz
 APPEND {_APPEND}
"""
_VERSION = "1"


def image(cache: Path, init: Path = INIT) -> Path:
    """The guest image (raw, about 40 MiB), built when it is not there yet. Raises Unavailable.

    ``init``: the script that is its process 1.
    """
    finished = cache / f"guest-{_recipe(init)}.raw"
    if finished.exists():
        return finished
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "guest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            with tempfile.TemporaryDirectory(prefix="guest-", dir=cache) as work:
                _build(Path(work), init).rename(finished)
    return finished


def ring_offset(image_file: Path) -> int:
    """Where the heartbeat ring begins on any disk made from the image, bytes."""
    with image_file.open("rb") as file:
        entry = file.read(512)[446 + 2 * 16 : 446 + 3 * 16]
    return int.from_bytes(entry[8:12], "little") * 512


def _recipe(init: Path) -> str:
    digest = hashlib.sha256()
    for part in (_VERSION, init.read_text(), _SYSLINUX, _DHCP, _OFF, " ".join(_MODULES), str(DATA_MIB)):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _build(work: Path, init: Path) -> Path:
    kernel, modules = _kernel(work)
    _initrd(work, modules, init)
    boot_mib = (kernel.stat().st_size + (work / "initrd.gz").stat().st_size) // MIB + 3
    boot, data, disk = work / "boot", work / "data", work / "disk"
    _sparse(boot, boot_mib)
    (work / "syslinux.cfg").write_text(_SYSLINUX)
    _run(work, ["mkfs.fat", "-F", "16", "-n", "BOOT", str(boot)])
    _run(work, ["syslinux", "--install", str(boot)])
    for source, name in ((kernel, "vmlinuz"), (work / "initrd.gz", "initrd.gz"), (work / "syslinux.cfg", "")):
        _run(work, ["mcopy", "-i", str(boot), str(source), f"::/{name or source.name}"])
    _sparse(data, DATA_MIB)
    # A journal: the disk must survive being cut off in the middle of anything, many times.
    _run(work, ["mkfs.ext4", "-q", "-L", "data", "-m", "0", "-b", "1024", "-J", "size=1", str(data)])
    _sparse(disk, 1 + boot_mib + DATA_MIB + 1)
    starts = [1, 1 + boot_mib, 1 + boot_mib + DATA_MIB]
    sizes = [boot_mib, DATA_MIB, 1]
    kinds = ["6, bootable", "83", "da"]
    table = "label: dos\n" + "".join(
        f"start={start * 2048}, size={size * 2048}, type={kind}\n"
        for start, size, kind in zip(starts, sizes, kinds, strict=True)
    )
    _run(work, ["sfdisk", "-q", str(disk)], table)
    with disk.open("r+b") as out:
        out.write(MBR.read_bytes()[:440])
        for part, start in ((boot, starts[0]), (data, starts[1])):
            _copy_sparse(part, out.fileno(), start * MIB)
    return disk


def _kernel(work: Path) -> tuple[Path, Path]:
    """Download and unpack Debian's cloud kernel; its image and the root for modprobe."""
    folder = work / "kernel"
    folder.mkdir()
    _run(folder, ["apt-get", "download", "-q", "linux-image-cloud-amd64"], timeout_s=300)
    meta = _one(folder, "linux-image-cloud-amd64_*.deb")
    depends = _run(folder, ["dpkg-deb", "-f", meta.name, "Depends"])
    package = depends.split(",")[0].split()[0]
    _run(folder, ["apt-get", "download", "-q", package], timeout_s=300)
    _run(folder, ["dpkg-deb", "-x", _one(folder, f"{package}_*.deb").name, "root"])
    root = folder / "root"
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")  # Debian 13's packages hold no /lib
    version = _one(root / "lib" / "modules", "*").name
    _run(folder, ["depmod", "-b", str(root), version])
    return _one(root / "boot", "vmlinuz-*"), root


def _initrd(work: Path, modules: Path, init: Path) -> None:
    root = work / "root"
    for folder in ["bin", "sbin", "proc", "sys", "dev", "run", "tmp", "etc", "data", "lib/modules"]:
        (root / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    (root / "bin" / "sh").symlink_to("busybox")
    version = _one(modules / "lib" / "modules", "*").name
    order: list[str] = []
    for module in _MODULES:
        said = _run(work, ["modprobe", "-d", str(modules), "-S", version, "--show-depends", module])
        for line in said.splitlines():
            words = line.split()
            if words[0] == "insmod" and (name := Path(words[1]).name.removesuffix(".xz")) not in order:
                # Debian 13 compresses them, and busybox need not know how.
                opened = lzma.open if words[1].endswith(".xz") else open
                with opened(words[1], "rb") as module_file:
                    (root / "lib" / "modules" / name).write_bytes(module_file.read())
                order.append(name)
    (root / "etc" / "modules").write_text("\n".join(order) + "\n")
    scripts = {"init": init.read_text(), "etc/dhcp": _DHCP}
    scripts |= {f"sbin/{verb}": _OFF.format(verb=verb) for verb in ("poweroff", "reboot")}
    for name, text in scripts.items():
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    names = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*"))) + "\n"
    archive = work / "initrd"
    _run(root, ["cpio", "-o", "-H", "newc", "--quiet", "--owner=0:0", "-F", str(archive)], names)
    with archive.open("rb") as source, gzip.open(work / "initrd.gz", "wb", 1) as out:
        shutil.copyfileobj(source, out)


def _copy_sparse(source: Path, out: int, offset: int) -> None:
    with source.open("rb") as file:
        for number, block in enumerate(iter(lambda: file.read(64 << 10), b"")):
            if block.strip(b"\0"):
                os.pwrite(out, block, offset + number * (64 << 10))


def _sparse(path: Path, size_mib: int) -> None:
    with path.open("wb") as file:
        file.truncate(size_mib * MIB)


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise Unavailable(f"the guest image: no {pattern} in {folder}")
    return found[0]


def _run(cwd: Path, argv: Sequence[str], stdin: str = "", timeout_s: float = 60) -> str:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "MTOOLS_SKIP_CHECK": "1"}
    # A proxy that a person set for apt is meant for this download too.
    environment |= {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy") or k == "HOME"}
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=environment,
        )
    except FileNotFoundError as error:
        raise Unavailable(
            f"the guest image: {error.filename} is missing: deploy/quickstart installs it"
        ) from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"the guest image: {argv[0]} took longer than {timeout_s:g} s") from None
    if done.returncode:
        raise Unavailable(f"the guest image: {' '.join(argv)}: {(done.stderr or done.stdout).strip()[-1000:]}")
    return done.stdout
