"""The domain's XML: golden files, and a door that no text gets through."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastack.hypervisor.libvirt import domain_xml as xml
from metastack.ports import (
    DiskFormat,
    DiskSource,
    Domain,
    DomainSpec,
    DomainState,
    EndReason,
    NicSpec,
    Refused,
)

GOLDEN = Path(__file__).parent / "golden"

FILE = DomainSpec(
    uuid="11111111-2222-4333-8444-555555555555",
    project="default",
    name="hello",
    cpus=2,
    memory_mib=512,
    disk=DiskSource(kind="file", format=DiskFormat.QCOW2, path="/var/lib/metastack/disks/a.qcow2"),
    nics=(NicSpec(mac="52:54:00:12:34:56", bridge="br0"),),
    session=17_592_186_044_417,
    epoch=17_592_186_044_420,
    run=3,
    volume_uuid="99999999-2222-4333-8444-555555555555",
    claim_node="n1",
)
RBD = msgspec.structs.replace(
    FILE,
    disk=DiskSource(
        kind="rbd",
        format=DiskFormat.RAW,
        path="vms/99999999-2222-4333-8444-555555555555",
        monitors=("10.77.0.1:6789", "[fd00::1]:6789"),
        user="node-n1",
        secret_uuid="77777777-2222-4333-8444-555555555555",
    ),
    nics=(),
)


def _pretty(text: str) -> str:
    element = ET.fromstring(text)
    ET.indent(element)
    return ET.tostring(element, encoding="unicode") + "\n"


@pytest.mark.parametrize(
    ("name", "spec", "accel"), [("file-tcg", FILE, "qemu"), ("rbd-kvm", RBD, "kvm")], ids=["file", "rbd"]
)
def test_golden(name: str, spec: DomainSpec, accel: str) -> None:
    """METASTACK_WRITE_GOLDEN=1 writes them again; the diff is for a person to read."""
    golden = GOLDEN / f"{name}.xml"
    found = _pretty(xml.build(spec, accel=accel, vnc_dir="/run/metastack/vnc"))
    if os.environ.get("METASTACK_WRITE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found)
    assert found == golden.read_text()


def _shape(text: str) -> list[tuple[str, list[str]]]:
    return [(element.tag, sorted(element.attrib)) for element in ET.fromstring(text).iter()]


NASTY = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "a'/><disk type='file'><source file='/etc/shadow'/></disk><x y='",
            "</name><devices><hostdev/></devices><name>",
            "<![CDATA[x]]>",
            "&lt;emulator&gt;/bin/sh",
            "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>&b;",
            "hello\n",
            "hello\x00",
            "../../etc/passwd",
            "/dev/sda/../../etc/shadow",
            "file:json:{}",
            "vms/disk:conf=/tmp/evil.conf",
            "br0 ",
            "10.0.0.1:99999",
            "10.0.0.1:٣",
            "",
        ]
    ),
)


@given(
    where=st.sampled_from(
        [
            "uuid",
            "project",
            "name",
            "volume_uuid",
            "claim_node",
            "mac",
            "bridge",
            "path",
            "user",
            "secret_uuid",
            "monitor",
            "kind",
            "vnc_dir",
        ]
    ),
    text=NASTY,
    base=st.sampled_from([FILE, RBD]),
)
def test_no_text_adds_an_element(where: str, text: str, base: DomainSpec) -> None:
    nic = NicSpec(mac="52:54:00:12:34:56", bridge="br0")
    replace = msgspec.structs.replace
    base = replace(base, nics=(nic,))
    vnc_dir = "/run/vnc"
    if where in ("mac", "bridge"):
        spec = replace(base, nics=(replace(nic, **{where: text}),))
    elif where == "monitor":
        spec = replace(base, disk=replace(base.disk, monitors=(text,)))
    elif where in ("path", "user", "secret_uuid", "kind"):
        spec = replace(base, disk=replace(base.disk, **{where: text}))
    elif where == "vnc_dir":
        spec, vnc_dir = base, text
    else:
        spec = replace(base, **{where: text})
    try:
        built = xml.build(spec, accel="qemu", vnc_dir=vnc_dir)
    except Refused:
        return
    plain = _shape(xml.build(base, accel="qemu", vnc_dir="/run/vnc"))
    optional = {("auth", ("username",)), ("secret", ("type", "uuid")), ("host", ("name", "port"))}
    optional |= {("graphics", ("type",)), ("listen", ("socket", "type"))}
    assert {(tag, tuple(keys)) for tag, keys in _shape(built)} - {
        (tag, tuple(keys)) for tag, keys in plain
    } <= optional | {(f"{{{xml.NAMESPACE}}}vm", tuple(keys)) for tag, keys in _shape(built) if "}vm" in tag}
    assert len(_shape(built)) <= len(plain)


@pytest.mark.parametrize(
    "change",
    [
        {"cpus": 0},
        {"cpus": True},
        {"memory_mib": -1},
        {"epoch": 1 << 64},
        {"session": "1"},
        {"name": "A"},
        {"name": "a" * 64},
        {"nics": (NicSpec(mac="53:54:00:12:34:56", bridge="br0"),)},
        {"nics": (NicSpec(mac="52:54:00:12:34:56", bridge="b" * 16),)},
        {"disk": DiskSource(kind="block", format=DiskFormat.RAW, path="/dev/sda")},
        {"disk": DiskSource(kind="file", format=DiskFormat.RAW, path="relative")},
        {"disk": DiskSource(kind="file", format="vmdk", path="/a")},  # type: ignore[arg-type]
        {"disk": DiskSource(kind="rbd", format=DiskFormat.RAW, path="vms/a")},
    ],
    ids=str,
)
def test_what_no_spec_may_hold_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Refused):
        xml.build(msgspec.structs.replace(FILE, **change), accel="qemu", vnc_dir="/run/vnc")


def test_metadata_comes_back() -> None:
    domain = Domain(
        uuid=FILE.uuid,
        project="default",
        name="hello",
        state=DomainState.DEFINED,
        end=EndReason.SHUTDOWN,
        session=1 << 50,
        epoch=2,
        run=3,
        volume_uuid=FILE.volume_uuid,
    )
    text = xml.metadata_xml(domain)
    assert xml.parse_metadata(FILE.uuid, "x", text, DomainState.DEFINED) == domain


def test_what_a_newer_version_wrote_into_the_metadata_is_kept() -> None:
    before = (
        f'<m:vm xmlns:m="{xml.NAMESPACE}" project="p" name="v" session="1" node="n2" end="crashed" new="x">'
        "<client>10.0.0.1:0/7</client></m:vm>"
    )
    domain = xml.parse_metadata(FILE.uuid, "x", before, DomainState.RUNNING)
    assert domain.node == "n2"
    text = xml.metadata_xml(msgspec.structs.replace(domain, session=2), before)
    element = ET.fromstring(text)
    assert (element.get("new"), element.findtext("client")) == ("x", "10.0.0.1:0/7")
    assert (element.get("session"), element.get("node"), element.get("end")) == ("2", "n2", None)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "<vm",
        "<other/>",
        "<vm project='a' name='b' session='x'/>",
        "<vm project='A' name='b'/>",
        "<vm project='a' name='b' end='melted'/>",
        "<vm name='b'/>",
    ],
)
def test_foreign_metadata_is_unmanaged(text: str | None) -> None:
    domain = xml.parse_metadata(FILE.uuid, "somebody-elses", text, DomainState.RUNNING)
    assert (domain.managed, domain.name, domain.state) == (False, "somebody-elses", DomainState.RUNNING)


def test_a_socket_path_that_is_too_long_is_refused() -> None:
    with pytest.raises(Refused):
        xml.build(FILE, accel="qemu", vnc_dir="/" + "a" * 80)
