"""Domain XML: from a :class:`DomainSpec` to text, and from our metadata back to a :class:`Domain`.

Owns: what a guest's machine looks like, and the metadata element that makes a domain ours.
Refuses: I/O, and every element, attribute or value that is not on the lists below.
Rule: text from a spec only ever becomes the value of an attribute or the text of an element. This module named
both, and the text matched a narrow pattern. No template or string is ever parsed on the way out.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Final

from metastack.core.model import NAME_RE
from metastack.ports import DiskFormat, DiskSource, Domain, DomainSpec, DomainState, EndReason, Refused

NAMESPACE: Final = "urn:metastack:vm:1"
"""URI of our metadata element. Another shape of it gets another number."""
NAMESPACE_KEY: Final = "metastack"

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAC: Final = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
"""Unicast only: libvirt refuses the rest, later and in other words."""
_BRIDGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_PATH: Final = re.compile(r"/[A-Za-z0-9._+@-]+(/[A-Za-z0-9._+@-]+)*")
_RBD: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_CEPH_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|[0-9A-Fa-f:]{2,39}")
_CLIENT: Final = re.compile(r"[0-9A-Fa-f:.\[\]]{3,48}:[0-9]{1,5}/[0-9]{1,20}")
_ANY_VALUE: Final = re.compile(r"[A-Za-z0-9 /._:+@\[\]-]{0,512}")
"""What any value at all may consist of: the second lock on the door, after the field's own pattern."""

_TOKENS: Final = ("session", "epoch", "run")
_MAX_TOKEN: Final = 1 << 63
_VM_ATTRIBUTES: Final = "project name session epoch run volume node end clients"

_ALLOWED: Final[dict[str, frozenset[str]]] = {
    tag: frozenset(attributes.split())
    for tag, attributes in {
        "domain": "type",
        "name": "",
        "uuid": "",
        "metadata": "",
        f"{{{NAMESPACE}}}vm": _VM_ATTRIBUTES,
        "vm": _VM_ATTRIBUTES,
        "memory": "unit",
        "currentMemory": "unit",
        "vcpu": "placement",
        "os": "",
        "type": "arch machine",
        "boot": "dev",
        "features": "",
        "acpi": "",
        "apic": "",
        "cpu": "mode check migratable",
        "feature": "policy name",
        "clock": "offset",
        "timer": "name tickpolicy present",
        "pm": "",
        "suspend-to-mem": "enabled",
        "suspend-to-disk": "enabled",
        "on_poweroff": "",
        "on_reboot": "",
        "on_crash": "",
        "devices": "",
        "emulator": "",
        "disk": "type device",
        "driver": "name type cache discard error_policy",
        "source": "protocol name file bridge",
        "host": "name port",
        "auth": "username",
        "secret": "type uuid",
        "target": "dev bus type name port",
        "controller": "type model",
        "interface": "type",
        "mac": "address",
        "model": "type",
        "serial": "type",
        "console": "type",
        "channel": "type",
        "graphics": "type socket",
        "listen": "type socket",
        "video": "",
        "rng": "model",
        "backend": "model",
        "memballoon": "model autodeflate freePageReporting",
        "panic": "model",
    }.items()
}

ET.register_namespace(NAMESPACE_KEY, NAMESPACE)


def build(spec: DomainSpec, *, accel: str, vnc_dir: str, arch_capabilities: bool = True) -> str:
    """The whole domain as text. ``accel`` is ``kvm``, ``qemu`` (TCG) or ``test`` (libvirt's own test driver).

    Raises Refused, naming the field, when a value is not what the spec's validation should have let through.
    """
    _check(spec)
    if accel not in ("kvm", "qemu", "test"):
        raise Refused(f"accelerator {accel!r} is not one of kvm, qemu, test")
    domain = _element(None, "domain", type=accel)
    _element(domain, "name", domain_name(spec))
    _element(domain, "uuid", spec.uuid)
    _vm_element(
        _element(domain, "metadata"),
        f"{{{NAMESPACE}}}vm",
        project=spec.project,
        name=spec.name,
        session=spec.session,
        epoch=spec.epoch,
        run=spec.run,
        volume=spec.volume_uuid,
        node=spec.claim_node,
    )
    _element(domain, "memory", str(spec.memory_mib), unit="MiB")
    _element(domain, "currentMemory", str(spec.memory_mib), unit="MiB")
    _element(domain, "vcpu", str(spec.cpus), placement="static")
    os = _element(domain, "os")
    # "pc" starts a guest faster than "q35" under TCG (docs), and has every device used below.
    _element(os, "type", "hvm", arch="x86_64", machine="pc")
    _element(os, "boot", dev="hd")
    features = _element(domain, "features")
    _element(features, "acpi")
    _element(features, "apic")
    if accel == "kvm":
        cpu = _element(domain, "cpu", mode="host-model", check="partial")
        if not arch_capabilities:  # KVM was proven without them only
            _element(cpu, "feature", policy="disable", name="arch-capabilities")
    elif accel == "qemu":
        _element(domain, "cpu", mode="maximum", check="none")
    _element(domain, "clock", offset="utc")
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _element(domain, event, action)
    # A guest asleep looks like one that hangs, and nobody could wake it.
    pm = _element(domain, "pm")
    _element(pm, "suspend-to-mem", enabled="no")
    _element(pm, "suspend-to-disk", enabled="no")
    _devices(_element(domain, "devices"), spec, vnc_dir)
    return ET.tostring(domain, encoding="unicode")


def _devices(devices: ET.Element, spec: DomainSpec, vnc_dir: str) -> None:
    _disk(devices, spec.disk)
    _element(devices, "controller", type="usb", model="none")
    for nic in spec.nics:
        interface = _element(devices, "interface", type="bridge")
        _element(interface, "mac", address=nic.mac)
        _element(interface, "source", bridge=nic.bridge)
        _element(interface, "model", type="virtio")
    serial = _element(devices, "serial", type="pty")
    _element(serial, "target", port="0")
    console = _element(devices, "console", type="pty")
    _element(console, "target", type="serial", port="0")
    channel = _element(devices, "channel", type="unix")
    _element(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    if vnc_dir:
        graphics = _element(devices, "graphics", type="vnc")
        _element(graphics, "listen", type="socket", socket=vnc_path(vnc_dir, spec.uuid))
    video = _element(devices, "video")
    _element(video, "model", type="vga")
    rng = _element(devices, "rng", model="virtio")
    _element(rng, "backend", "/dev/urandom", model="random")
    _element(devices, "memballoon", model="virtio", autodeflate="on", freePageReporting="on")
    _element(devices, "panic", model="isa")


def _disk(devices: ET.Element, disk: DiskSource) -> None:
    element = _element(devices, "disk", type="file" if disk.kind == "file" else "network", device="disk")
    _element(
        element,
        "driver",
        name="qemu",
        type=disk.format.value,
        cache="writeback",
        discard="unmap",
        # Safety: a fenced guest stops at its first refused write instead of carrying on with errors.
        error_policy="stop",
    )
    if disk.kind == "file":
        _element(element, "source", file=disk.path)
    else:
        if disk.user:
            auth = _element(element, "auth", username=disk.user)
            _element(auth, "secret", type="ceph", uuid=disk.secret_uuid)
        source = _element(element, "source", protocol="rbd", name=disk.path)
        for monitor in disk.monitors:
            host, _, port = monitor.rpartition(":")
            _element(source, "host", name=host.strip("[]"), port=port)
    _element(element, "target", dev="vda", bus="virtio")


def domain_name(spec: DomainSpec) -> str:
    """What ``virsh list`` shows: bounded, and unlike that of another VM of the same name."""
    return f"ms-{spec.project[:24]}-{spec.name[:32]}-{spec.uuid[:8]}"


def vnc_path(vnc_dir: str, uuid: str) -> str:
    """The unix socket of a VM's screen. Bounded by the 107 bytes that a socket's path may have."""
    path = f"{vnc_dir}/{uuid}.vnc"
    if _PATH.fullmatch(path) is None or len(path) > 107:
        raise Refused(f"vnc_dir {vnc_dir!r} does not make a usable socket path")
    return path


def secret_xml(uuid: str, name: str) -> str:
    """A libvirt secret of type ceph: never on disk, never read back."""
    _match("secret uuid", uuid, _UUID)
    _match("secret name", name, re.compile(r"[A-Za-z0-9 ._-]{1,128}"))
    secret = ET.Element("secret", ephemeral="yes", private="yes")
    ET.SubElement(secret, "uuid").text = uuid
    usage = ET.SubElement(secret, "usage", type="ceph")
    ET.SubElement(usage, "name").text = name
    return ET.tostring(secret, encoding="unicode")


# ---------------------------------------------------------------------------------------------------------
# Our metadata


def metadata_xml(domain: Domain, before: str | None = None) -> str:
    """Our metadata element alone, as ``virDomainSetMetadata`` wants it: libvirt adds the namespace itself.

    ``before``: as it is now. What is in there and this version does not know is kept.
    """
    for client in domain.clients:
        _match("client", client, _CLIENT)
    element = _vm_element(
        None,
        "vm",
        project=domain.project,
        name=domain.name,
        session=domain.session,
        epoch=domain.epoch,
        run=domain.run,
        volume=domain.volume_uuid,
        node=domain.node,
        end=domain.end.value,
        clients=" ".join(domain.clients),
    )
    try:
        old = ET.fromstring(before) if before else None
    except ET.ParseError:
        old = None
    if old is not None and old.tag in (f"{{{NAMESPACE}}}vm", "vm"):
        known = set(_VM_ATTRIBUTES.split())
        element.attrib.update({key: value for key, value in old.attrib.items() if key not in known})
        element.extend(list(old))
    return ET.tostring(element, encoding="unicode")


def parse_metadata(uuid: str, libvirt_name: str, text: str | None, state: DomainState) -> Domain:
    """A domain from its metadata; one without ours is unmanaged, and so is one of ours that cannot be read."""
    foreign = Domain(uuid=uuid, project="", name=libvirt_name, state=state, managed=False)
    if not text:
        return foreign
    foreign = Domain(uuid=uuid, project="", name=libvirt_name, state=state, managed=False, damaged=True)
    try:
        element = ET.fromstring(text)
        if element.tag not in (f"{{{NAMESPACE}}}vm", "vm"):
            return foreign
        session, epoch, run = (int(element.get(key, "0")) for key in _TOKENS)
        project, name = element.get("project", ""), element.get("name", "")
        end = EndReason(element.get("end", ""))
    except (ET.ParseError, ValueError):
        return foreign
    if NAME_RE.fullmatch(project) is None or NAME_RE.fullmatch(name) is None:
        return foreign
    return Domain(
        uuid=uuid,
        project=project,
        name=name,
        state=state,
        end=end if state is DomainState.DEFINED else EndReason.NONE,
        volume_uuid=element.get("volume", ""),
        clients=tuple(element.get("clients", "").split()),
        node=element.get("node", ""),
        session=session,
        epoch=epoch,
        run=run,
    )


def _vm_element(parent: ET.Element | None, tag: str, /, **values: str | int) -> ET.Element:
    texts = {key: str(value) for key, value in values.items() if value != ""}
    return _element(parent, tag, "", **texts)


# ---------------------------------------------------------------------------------------------------------
# The door


def _element(parent: ET.Element | None, tag: str, text: str = "", /, **attributes: str) -> ET.Element:
    """The only place where an element is made."""
    allowed = _ALLOWED.get(tag)
    if allowed is None or not allowed.issuperset(attributes):
        raise Refused(f"element {tag} with {sorted(attributes)} is not on the list")
    for value in (text, *attributes.values()):
        if _ANY_VALUE.fullmatch(value) is None:
            raise Refused(f"{tag}: {value!r} has characters that no value may have")
    element = ET.Element(tag, attributes) if parent is None else ET.SubElement(parent, tag, attributes)
    element.text = text or None
    return element


def _match(field: str, value: object, pattern: re.Pattern[str]) -> None:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise Refused(f"{field}: {value!r} is not valid")


def _bounded(field: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Refused(f"{field}: {value!r} is not between {low} and {high}")


def _check(spec: DomainSpec) -> None:
    _match("project", spec.project, NAME_RE)
    _match("name", spec.name, NAME_RE)
    _match("uuid", spec.uuid, _UUID)
    if spec.volume_uuid:
        _match("volume_uuid", spec.volume_uuid, _UUID)
    if spec.claim_node:
        _match("claim_node", spec.claim_node, NAME_RE)
    _bounded("cpus", spec.cpus, 1, 1024)
    _bounded("memory_mib", spec.memory_mib, 1, 1 << 26)
    for field in _TOKENS:
        _bounded(field, getattr(spec, field), 0, _MAX_TOKEN)
    for nic in spec.nics:
        _match("mac", nic.mac, _MAC)
        _match("bridge", nic.bridge, _BRIDGE)
    _check_disk(spec.disk)


def _check_disk(disk: DiskSource) -> None:
    if not isinstance(disk.format, DiskFormat):
        raise Refused(f"disk format: {disk.format!r} is not valid")
    if disk.kind == "file":
        _match("disk path", disk.path, _PATH)
        if {"..", "."} & set(disk.path.split("/")):
            raise Refused(f"disk path: {disk.path!r} walks upwards")
    elif disk.kind == "rbd":
        _match("rbd image", disk.path, _RBD)
        if not disk.monitors:
            raise Refused("rbd image: no monitors")
        for monitor in disk.monitors:
            host, _, port = monitor.rpartition(":")
            _match("monitor", host.strip("[]"), _HOST)
            if not port.isascii() or not port.isdigit():
                raise Refused(f"monitor: {monitor!r} has no port")
            _bounded("monitor port", int(port), 1, 65535)
        if disk.user:
            _match("cephx user", disk.user, _CEPH_USER)
            _match("secret uuid", disk.secret_uuid, _UUID)
    else:
        raise Refused(f"disk kind: {disk.kind!r} is not file or rbd")
