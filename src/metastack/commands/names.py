"""What people may type: names, labels, amounts. Checked before anything is written.

Owns: the bounds of every field of a request. Refuses: to repair what was typed.
Rule: an error names the field, shows the value and says what would do.
"""

from __future__ import annotations

import re
from typing import Final

from metastack.core.model import VmId, valid_name
from metastack.core.quantity import format_bytes

from .problem import usage

DEFAULT_PROJECT: Final = "default"
MAX_CPUS: Final = 512
MAX_MEMORY_MIB: Final = 16 << 20
MIN_MEMORY_MIB: Final = 16
MAX_DISK_BYTES: Final = 64 << 40
MAX_LABELS: Final = 64
MAX_REASON: Final = 500
_LABEL_KEY: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9._/-]{0,61}[a-zA-Z0-9])?", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_BRIDGE: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,14}", re.ASCII)


def name(field: str, value: str) -> str:
    """A DNS label."""
    if not valid_name(value):
        raise usage(
            field,
            f"{value!r} is not a valid name",
            "use 1 to 63 of a-z, 0-9 and -, not beginning or ending with -",
        )
    return value


def vm_id(value: str, project: str = "") -> VmId:
    """``NAME`` in a project, or ``PROJECT/NAME``."""
    front, slash, rest = value.partition("/")
    if slash:
        if project and project != front:
            raise usage("vm", f"{value!r} does not match --project {project}")
        return VmId(name("project", front), name("vm", rest))
    return VmId(name("project", project or DEFAULT_PROJECT), name("vm", value))


def bridge(value: str) -> str:
    """A Linux interface name."""
    if not _BRIDGE.fullmatch(value):
        raise usage("network", f"{value!r} is not the name of a bridge", "at most 15 of a-z, 0-9, . _ and -")
    return value


def label_key(value: str) -> str:
    if not _LABEL_KEY.fullmatch(value):
        raise usage(
            "label", f"{value!r} is not a valid key", "1 to 63 letters, digits, . _ / and -, such as team=web"
        )
    return value


def label_value(key: str, value: str, sign: str = "=") -> str:
    """A label's value, which stands behind ``sign``."""
    if value.startswith("="):
        # Elsewhere == compares; here it would be a value that no label has.
        wanted = value.lstrip("=")
        raise usage("label", f"the value of {key} begins with =", f"write {key}{sign}{wanted or 'VALUE'}")
    if len(value) > 255 or not value.isprintable():
        raise usage("label", f"the value of {key} is too long or not printable", "at most 255 characters")
    return value


def label_changes(texts: list[str]) -> tuple[dict[str, str], set[str]]:
    """``k=v`` sets, ``k-`` removes."""
    put: dict[str, str] = {}
    drop: set[str] = set()
    for text in texts:
        key, equals, value = text.partition("=")
        if equals:
            put[label_key(key)] = label_value(key, value)
        elif text.endswith("-"):
            drop.add(label_key(text[:-1]))
        else:
            raise usage("label", f"{text!r} has no value", f"write {text}=VALUE, or {text}- to remove it")
    both = put.keys() & drop
    if both:
        raise usage("label", f"{sorted(both)[0]} is both set and removed")
    return put, drop


def labels(texts: list[str]) -> dict[str, str]:
    """``k=v`` each, for something new or to choose by."""
    for text in texts:
        if "=" not in text:
            raise usage("--label", f"{text!r} has no value", f"write {text.rstrip('-') or 'KEY'}=VALUE")
    return bounded_labels(label_changes(texts)[0])


def bounded_labels(found: dict[str, str]) -> dict[str, str]:
    if len(found) > MAX_LABELS:
        raise usage("label", f"{len(found)} labels are too many", f"at most {MAX_LABELS}")
    return dict(sorted(found.items()))


def cpus(value: int) -> int:
    if not 1 <= value <= MAX_CPUS:
        raise usage("cpus", f"{value} is out of range", f"1 to {MAX_CPUS}")
    return value


def memory_mib(value: int) -> int:
    if not MIN_MEMORY_MIB <= value <= MAX_MEMORY_MIB:
        raise usage(
            "memory", f"{value} MiB is out of range", f"{MIN_MEMORY_MIB}MiB to {MAX_MEMORY_MIB >> 20}TiB"
        )
    return value


def disk_bytes(value: int, image_bytes: int, image: str) -> int:
    """The disk's size: at least its image's, whole sectors."""
    if value < image_bytes:
        raise usage(
            "disk",
            f"{format_bytes(value)} is smaller than image {image}, which has {format_bytes(image_bytes)}",
            f"give --disk {-(-image_bytes >> 20)}MiB or more" if image_bytes else "",
        )
    if value > MAX_DISK_BYTES or value < 1 << 20:
        raise usage("disk", f"{format_bytes(value)} is out of range", f"1MiB to {format_bytes(MAX_DISK_BYTES)}")
    if value % 512:
        raise usage("disk", f"{value} bytes are not whole sectors of 512", "use MiB or GiB")
    return value


def reason(value: str) -> str:
    if len(value) > MAX_REASON or not value.isprintable():
        raise usage("reason", "is too long or not printable", f"at most {MAX_REASON} characters, one line")
    return value


def needed_reason(value: str, object: str, what: str) -> None:
    """Raise Problem for a bad or missing reason, before a person is asked anything; ``what`` needs it."""
    reason(value)
    if not value:
        raise usage(object, f"{what} needs a reason", 'give --reason "why"')


def sha256(value: str) -> str:
    """A checksum in hex, as ``sha256sum`` prints it; empty stays empty."""
    found = value.strip().lower().removeprefix("sha256:")
    if value and not _SHA256.fullmatch(found):
        raise usage("sha256", f"{value!r} is not a SHA-256", "64 hexadecimal digits, as sha256sum prints them")
    return found
