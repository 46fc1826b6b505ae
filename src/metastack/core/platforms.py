"""The platforms: the releases of Debian that MetaStack runs on, and the versions that each of them ships.

Owns: the table. Refuses: looking at a machine. A test holds the same table in docs/guide/install.md to it.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct


class Platform(Struct, frozen=True, kw_only=True):
    """One release of a distribution."""

    system: str
    """``ID`` and ``VERSION_ID`` of its ``/etc/os-release``."""
    name: str
    python: str
    etcd: str
    ceph: str
    libvirt: str
    qemu: str
    main: bool = False
    """New installations are made on it."""


PLATFORMS: Final = (
    Platform(
        system="debian 13",
        name="Debian 13 (trixie)",
        python="3.13",
        etcd="3.5.16",
        ceph="18.2",
        libvirt="11.3",
        qemu="10.0",
        main=True,
    ),
    Platform(
        system="debian 12",
        name="Debian 12 (bookworm)",
        python="3.11",
        etcd="3.4.23",
        ceph="16.2",
        libvirt="9.0",
        qemu="7.2",
    ),
)
NAMES: Final = " and ".join(platform.name for platform in PLATFORMS)


def platform_of(system: str) -> Platform | None:
    """The platform that a machine is, by its ``ID VERSION_ID``."""
    return next((platform for platform in PLATFORMS if platform.system == system), None)


def system_of(os_release: dict[str, str]) -> str:
    """``ID VERSION_ID`` of the parsed ``/etc/os-release``; a release without a number has the ID alone."""
    return f"{os_release.get('ID', 'linux')} {os_release.get('VERSION_ID', '')}".strip()


def older(version: str, least: str) -> bool:
    """Whether a version such as ``7.2.0`` is below ``10.0``; one that cannot be read is not."""
    try:
        have, need = (tuple(int(part) for part in text.split(".")) for text in (version, least))
    except ValueError:
        return False
    return have[: len(need)] < need
