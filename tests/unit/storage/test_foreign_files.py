"""What is no disk image is named and refused; raw disks of every kind pass."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import shutil
import subprocess
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from metastack.commands.problem import from_storage
from metastack.ports import DiskFormat, InvalidImage
from metastack.storage import image_source as source

SECTOR = bytes(range(256)) * 2


def _tar(format: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        archive.addfile(tarfile.TarInfo("appliance.ovf"), io.BytesIO(b""))
    return out.getvalue()


def _old_tar() -> bytes:
    """A header of before POSIX: no magic."""
    header = bytearray(_tar(tarfile.USTAR_FORMAT)[:512])
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("disk.img", SECTOR * 4)
    return out.getvalue()


FOREIGN = {
    "POSIX tar": (_tar(tarfile.PAX_FORMAT), "tar archive (an OVA is one): unpack"),
    "GNU tar": (_tar(tarfile.GNU_FORMAT), "tar archive"),
    "old tar": (_old_tar(), "tar archive"),
    "zip": (_zip(), "zip archive: unpack it first (unzip)"),
    "empty zip": (b"PK\x05\x06" + bytes(508), "zip"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(506), "7z"),
    "gzip": (gzip.compress(SECTOR), "compressed with gzip: decompress it first (gunzip)"),
    "xz": (lzma.compress(SECTOR), "compressed with xz"),
    "bzip2": (bz2.compress(SECTOR), "compressed with bzip2"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(508), "compressed with zstd"),
    "html": (b"\n<!DOCTYPE html><html>".ljust(512), "a page of HTML"),
    "html behind a mark": (b"\xef\xbb\xbf  <HTML lang=de>".ljust(512), "a page of HTML"),
    "xml error of a bucket": (b"<?xml version='1.0'?><Error>".ljust(512), "a page of HTML or XML"),
    "vmdk": (b"KDMV" + bytes(508), "VMDK image: convert"),
    "vdi": (bytes(64) + b"\x7f\x10\xda\xbe" + bytes(444), "VDI image"),
    "vhdx": (b"vhdxfile" + bytes(504), "VHDX image"),
    "dynamic vhd": (b"conectix" + bytes(504), "VHD image"),
    "fixed vhd": (
        SECTOR * 4 + b"conectix" + bytes(504),
        "fixed VHD image: convert it first (qemu-img convert -f vpc",
    ),
    "dmg": (SECTOR * 4 + b"koly" + bytes(508), "DMG image"),
    "wim": (b"MSWIM\0\0\0" + bytes(504), "WIM"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_it_is_named(tmp_path: Path, what: str) -> None:
    content, says = FOREIGN[what]
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(InvalidImage) as refused:
        source.open_source(str(file), None, 0)
    assert says in str(refused.value)
    file.write_bytes(content + bytes(-len(content) % 512))
    source.close(source.open_source(str(file), DiskFormat.RAW, 0))


def _mbr(code: bytes) -> bytes:
    return code.ljust(510, b"\0") + b"\x55\xaa" + bytes(512)


RAW = {
    "zeros": bytes(1024),
    "a boot sector of GRUB": _mbr(b"\xeb\x63\x90\x10\x8e\xd0"),
    "a boot sector of FAT": _mbr(b"\xeb\x3c\x90MSDOS5.0"),
    "a boot sector of NTFS": _mbr(b"\xeb\x52\x90NTFS    "),
    "that begins with B and Z": _mbr(b"BZh\x90\x90"),
    "that begins with pop and push": _mbr(b"\x1f\x8b\x90"),
    "GPT": bytes(512) + b"EFI PART" + bytes(504),
    "ISO 9660": bytes(0x8001) + b"CD001" + bytes(512 - 6),
    "LVM": bytes(512) + b"LABELONE" + bytes(504),
    "squashfs": b"hsqs" + bytes(508),
    "ext4": bytes(1080) + b"\x53\xef" + bytes(454),
    "text": b"hello world".ljust(512),
    "digits where tar has its checksum": bytes(148) + b"000000\0 " + bytes(356),
    "with a disk's last sector": SECTOR * 4 + b"EFI PART" + bytes(504),
}


@pytest.mark.parametrize("what", RAW)
def test_a_raw_disk_is_opaque(tmp_path: Path, what: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(RAW[what])
    opened = source.open_source(str(file), None, 0)
    source.close(opened)
    assert opened.format is DiskFormat.RAW


def test_an_odd_size_is_not_called_truncated(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 1000)
    with pytest.raises(InvalidImage, match="not a raw disk image, or one that was cut short: its 1000 bytes"):
        source.open_source(str(file), None, 0)


def test_what_is_nearly_all_zeros_is_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """415 GiB of zeros took minutes."""
    monkeypatch.setattr(hashlib, "sha256", lambda: pytest.fail("no digest is wanted"))
    file, wrote = tmp_path / "file", []
    with file.open("wb") as out:
        out.write(SECTOR)
        out.truncate(415 << 30)
        out.seek(300 << 30)
        out.write(SECTOR)
    done: list[int] = []
    with file.open("rb") as opened:
        source.fill(
            opened.fileno(),
            415 << 30,
            lambda data, at: wrote.append((at, len(data))),
            lambda at, of: done.append(at),
            threading.Event(),
        )
    assert wrote == [(0, source.CHUNK_BYTES), (300 << 30, source.CHUNK_BYTES)]
    assert done[-1] == 415 << 30


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-utils")
@pytest.mark.parametrize("fmt", ["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels", "vpc -o subformat=fixed"])
def test_qemu_img_makes_nothing_that_passes(tmp_path: Path, fmt: str) -> None:
    file = tmp_path / "file"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", *fmt.split(), str(file), "64M"], check=True, capture_output=True
    )
    with pytest.raises(InvalidImage, match="convert it first"):
        source.open_source(str(file), None, 0)


def test_an_odd_raw_file_gets_one_piece_of_advice(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 1000)
    with pytest.raises(InvalidImage) as refused:
        source.open_source(str(file), None, 0)
    assert from_storage(refused.value, "image i").hint == "", "its message says what to do"
