"""Foreign formats: names a file that is no disk image for import, and says what to do with it.

Owns: the magics of other disk formats, archives, compressions and web pages. Refuses: opening or unpacking any.
Rule: only a file whose format nobody named is looked at, and only signs that no boot sector, partition table or
file system bears count: a raw disk is opaque bytes. An ISO 9660 image is a raw disk of a kind and passes.
"""

from __future__ import annotations

from typing import Final

TAIL_BYTES: Final = 512
"""How much of the file's end is looked at."""

_DISKS: Final = (
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"conectix", "VHD"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"QED\0", "QED"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"Bochs Virtual HD Image", "Bochs"),
)
_COMPRESSED: Final = (
    (b"\x1f\x8b\x08", "gzip", "gunzip"),
    (b"\xfd7zXZ\0", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"\x04\x22\x4d\x18", "lz4", "unlz4"),
    (b"LZIP\x01", "lzip", "lunzip"),
)
_ARCHIVES: Final = (
    (b"PK\x03\x04", "zip", "unzip"),
    (b"PK\x05\x06", "zip", "unzip"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "7z x"),
    (b"Rar!\x1a\x07", "RAR", "unrar x"),
)
_PAGES: Final = (b"<!doctype html", b"<html", b"<head", b"<?xml")
_AS_IT_IS: Final = "or name the format raw if its bytes are meant as they are"


def foreign(head: bytes, tail: bytes) -> str:
    """What is wrong with a file that begins and ends like this, and what to do; empty: nothing."""
    for offset, magic, name in _DISKS:
        if head[offset : offset + len(magic)] == magic:
            return f"this is a {name} image: convert it first (qemu-img convert -O qcow2), {_AS_IT_IS}"
    if tail.startswith(b"conectix"):
        return f"this is a fixed VHD image: convert it first (qemu-img convert -f vpc -O qcow2), {_AS_IT_IS}"
    if tail.startswith(b"koly"):
        return f"this is a DMG image: convert it first (qemu-img convert -f dmg -O qcow2), {_AS_IT_IS}"
    if head.startswith(b"LUKS\xba\xbe"):
        return f"this is a LUKS image, which is encrypted: decrypt it first, {_AS_IT_IS}"
    if head.startswith(b"MSWIM\0\0\0"):
        return "this is a WIM file, an archive of Windows: it is no disk; install from it into a VM"
    if head.startswith(b"\x3a\xff\x26\xed"):
        return "this is an Android sparse image: convert it first (simg2img)"
    for magic, name, unpack in _COMPRESSED:
        if head.startswith(magic):
            return f"the file is compressed with {name}: decompress it first ({unpack})"
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "the file is compressed with bzip2: decompress it first (bunzip2)"
    for magic, name, unpack in _ARCHIVES:
        if head.startswith(magic):
            return f"this is a {name} archive: unpack it first ({unpack}) and import the disk image in it"
    if _is_tar(head):
        return (
            "this is a tar archive (an OVA is one): unpack it first (tar -xf) and import the disk image in it; "
            "a VMDK has to be converted then (qemu-img convert -O qcow2)"
        )
    if head[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return (
            "this is a page of HTML or XML and no disk image: the address leads to a page; "
            "take the address of the download itself"
        )
    return ""


def _is_tar(head: bytes) -> bool:
    """The first member's header says so, or (before POSIX) its checksum is right."""
    if head[257:262] == b"ustar":
        return True
    header = head[:512]
    digits = header[148:156].strip(b" \0")
    if len(header) < 512 or not header[0] or not digits.isdigit() or set(digits) & set(b"89"):
        return False
    return sum(header[:148]) + 8 * ord(" ") + sum(header[156:]) == int(digits, 8)
