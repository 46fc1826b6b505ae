"""What libvirt and QEMU say, by family: whose trouble it is that a guest does not start."""

from __future__ import annotations

import pytest

libvirt = pytest.importorskip("libvirt")

from metastack.hypervisor.libvirt.errors import translate  # noqa: E402
from metastack.ports import (  # noqa: E402
    Denied,
    Fenced,
    InUse,
    InvalidImage,
    LocalTrouble,
    NodeFault,
    NotFound,
    ObjectFault,
    Refused,
)

QEMU = "internal error: process exited while connecting to monitor: qemu-system-x86_64: -blockdev ...: "


def error(text: str, code: int = 1) -> Exception:
    found = libvirt.libvirtError("")
    found.err = (code, libvirt.VIR_FROM_QEMU, text, 2, text, None, None, -1, -1)
    return translate(found, changes=True, what="boot default/vm1")


@pytest.mark.parametrize(
    ("text", "family", "whose"),
    [
        (QEMU + "error connecting: Permission denied", Denied, NodeFault),
        (QEMU + "error connecting: Operation not permitted", Denied, NodeFault),
        (QEMU + "error reading header from vm-1: No such file or directory", NotFound, ObjectFault),
        (QEMU + "Could not open '/x/disks/1.qcow2': No such file or directory", NotFound, ObjectFault),
        (QEMU + "Image is not in qcow2 format", InvalidImage, ObjectFault),
        (QEMU + 'Failed to get "write" lock', InUse, ObjectFault),
        (
            QEMU + "error reading header: Cannot send after transport endpoint shutdown",
            Fenced,
            Fenced,
        ),
        (
            "cannot create file '/run/vm1.xml.new': No space left on device",
            LocalTrouble,
            NodeFault,
        ),
        (QEMU + "cannot set up guest memory 'pc.ram': Cannot allocate memory", LocalTrouble, NodeFault),
        (
            "unsupported configuration: Emulator does not support virt type 'kvm'",
            Refused,
            Refused,
        ),
    ],
)
def test_whose_trouble_it_is(text: str, family: type[Exception], whose: type[Exception]) -> None:
    found = error(text)
    assert type(found) is family
    assert isinstance(found, whose)


def test_an_emulator_that_is_missing_is_no_disk_that_is() -> None:
    found = error("Cannot check QEMU binary /usr/bin/qemu-system-x86_64: No such file or directory")
    assert type(found) is Refused, "the adapter's boot makes a CannotStart of it"


def test_a_missing_secret_driver_names_its_package() -> None:
    # As libvirt's own test driver says it, which has no secrets.
    with pytest.raises(libvirt.libvirtError) as said:
        libvirt.open("test:///default").secretDefineXML("<secret/>")
    found = translate(said.value, changes=True, what="teach secret")
    assert type(found) is Refused
    assert "apt-get install libvirt-daemon-driver-secret" in str(found)
