"""Rows: how the world keeps the records of VMs, of which there are ten thousands that are not this node's.

Owns: a record in two parts: what only this VM has (UUIDs, revisions, times) as a few bytes, and its shape,
which many VMs share and which is kept once. Refuses: records of nodes and settings, which are few.
Rule: what comes back is equal to what was put in, whatever text somebody wrote into a field: what is not
exactly a UUID or a time as this platform writes it stays text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..model import Claim, Ha, Nic, Placement, Record, VmSpec, VmStatus, Volume
from .keys import Kind

R = TypeVar("R", bound=Record)

RECENT: Final = 384
"""Records kept whole beside their rows: an agent reads a new one several times, and a claim follows its spec
soon. In a burst a hundred specs are under way, each followed by three records of its claim: put together again
for each reader they were a tenth of an agent's work."""
_SHAPES: Final = 4096
"""Shapes shared at a time. When there are more, sharing begins again: a matter of memory and nothing else."""


class Seen(Struct, Generic[R], frozen=True):
    """A record as it was seen: with the revisions that guards compare."""

    record: R | None
    """None when it does not parse; then ``why`` says so."""
    mod: int
    create: int
    lease: int = 0
    why: str = ""
    check: int = -1
    """Checksum of the bytes that it was decoded from; -1: it was not."""

    @property
    def ok(self) -> R:
        """The record; only for callers that have checked that it parses."""
        if self.record is None:
            raise ValueError(f"unreadable record used: {self.why}")
        return self.record


class Row(Struct, gc=False):
    """A record in two parts."""

    shape: Record
    """With everything that is only its own left out."""
    own: bytes
    """The rest: revisions, lease, checksum and the fields of its kind."""

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """Mod and create revision, lease, checksum."""
        mod, create, lease, check = _decode(self.own)[:4]
        return mod, create, lease, check

    @property
    def mod(self) -> int:
        return self.numbers[0]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = cast("Callable[[bytes], list[Any]]", msgspec.msgpack.Decoder(list).decode)

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
_HEX: Final = re.compile(r"[0-9a-f]{32}").fullmatch
_TIME: Final = re.compile(
    r"[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3})?Z", re.A
).fullmatch
_DIGITS: Final = str.maketrans("", "", "-T:.Z")


def _thin(text: str) -> str | bytes:
    """A UUID in 16 bytes, or in 17 when it has no dashes; anything else as it is."""
    size = len(text)
    if size == 36 and _UUID(text) is not None:
        return bytes.fromhex(text.replace("-", ""))
    if size == 32 and _HEX(text) is not None:
        return b"\0" + bytes.fromhex(text)
    return text


def _text(thin: str | bytes) -> str:
    if isinstance(thin, str):
        return thin
    if len(thin) == 17:
        return thin[1:].hex()
    h = thin.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def _thin_time(text: str) -> str | int:
    """The digits of a time as one number; anything else as it is."""
    return text if _TIME(text) is None else int(text.translate(_DIGITS))


def _time(thin: str | int) -> str:
    if isinstance(thin, str):
        return thin
    d = str(thin)
    thousandths = f".{d[14:]}" if len(d) > 14 else ""
    return f"{d[:4]}-{d[4:6]}-{d[6:8]}T{d[8:10]}:{d[10:12]}:{d[12:14]}{thousandths}Z"


class _Kind(Struct, frozen=True):
    """How the records of one kind are taken apart and put together."""

    own: Callable[[Any], tuple[Any, ...]]
    shared: Callable[[Any], tuple[Any, ...]]
    """Everything else: records with the same have one shape."""
    blank: Callable[[Any], Record]
    whole: Callable[[Any, tuple[str, ...], list[Any]], Record]


def _spec_own(spec: VmSpec) -> tuple[Any, ...]:
    return (
        _thin(spec.uuid), _thin(spec.volume_uuid), _thin(spec.request_id), _thin_time(spec.created),
        spec.reason, spec.paused_epoch, [nic.mac for nic in spec.nics],
    )  # fmt: skip


_ANYWHERE, _HA = Placement(), Ha()


def _spec_shared(spec: VmSpec) -> tuple[Any, ...]:
    nics, more = spec.nics, b""
    if spec.labels or spec.resources or spec.placement != _ANYWHERE or spec.ha != _HA:
        more = _encode((spec.labels, spec.resources, spec.placement, spec.ha))
    return (
        spec.v, spec.project, spec.image, spec.image_uuid, spec.cpus, spec.memory_mib, spec.disk_bytes,
        spec.power, spec.run, spec.force, spec.by, more,
        nics[0].bridge if len(nics) == 1 else tuple([nic.bridge for nic in nics]),
    )  # fmt: skip


def _spec_blank(spec: VmSpec) -> VmSpec:
    nics = tuple([Nic(bridge=nic.bridge, mac="") for nic in spec.nics])
    return replace(
        spec, name="", uuid="", volume_uuid="", request_id="", created="", reason="", paused_epoch=0, nics=nics
    )


def _spec_whole(shape: VmSpec, names: tuple[str, ...], own: list[Any]) -> VmSpec:
    uuid, volume_uuid, request_id, created, reason, paused_epoch, macs = own[4:]
    nics = tuple([Nic(bridge=nic.bridge, mac=mac) for nic, mac in zip(shape.nics, macs, strict=True)])
    return replace(
        shape, name=names[1], uuid=_text(uuid), volume_uuid=_text(volume_uuid), request_id=_text(request_id),
        created=_time(created), reason=reason, paused_epoch=paused_epoch, nics=nics,
    )  # fmt: skip


def _claim_own(claim: Claim) -> tuple[Any, ...]:
    return _thin(claim.uuid), _thin(claim.volume_uuid), _thin(claim.claim_id), claim.epoch


def _claim_shared(claim: Claim) -> tuple[Any, ...]:
    return (
        claim.v,
        claim.node,
        claim.session,
        claim.generation,
        claim.taken_from,
        claim.taken_before,
        claim.was_paused,
        claim.to_release,
    )


def _claim_whole(shape: Claim, names: tuple[str, ...], own: list[Any]) -> Claim:
    _, _, _, _, uuid, volume_uuid, claim_id, epoch = own
    return replace(
        shape, uuid=_text(uuid), volume_uuid=_text(volume_uuid), claim_id=_text(claim_id), epoch=epoch
    )


def _status_own(status: VmStatus) -> tuple[Any, ...]:
    return (
        _thin(status.uuid), status.epoch, _thin_time(status.since), status.ips, status.message, status.retry_at,
        status.vnc,
    )  # fmt: skip


def _status_shared(status: VmStatus) -> tuple[Any, ...]:
    return (
        status.v, status.phase, status.node, status.session, status.run, status.crashes, status.ready,
        status.disk_held_by, status.drift, status.elsewhere,
    )  # fmt: skip


def _status_whole(shape: VmStatus, names: tuple[str, ...], own: list[Any]) -> VmStatus:
    uuid, epoch, since, ips, message, retry_at, vnc = own[4:]
    return replace(
        shape, uuid=_text(uuid), epoch=epoch, since=_time(since), ips=tuple(ips), message=message,
        retry_at=retry_at, vnc=vnc,
    )  # fmt: skip


def _volume_shared(volume: Volume) -> tuple[Any, ...]:
    return (
        volume.v, volume.project, volume.size_bytes, volume.image_uuid, volume.pool, volume.trash_retention_s,
        volume.last_node, volume.made, volume.cluster_id,
    )  # fmt: skip


def _volume_whole(shape: Volume, names: tuple[str, ...], own: list[Any]) -> Volume:
    vm, vm_uuid = own[4:]
    return replace(shape, uuid=names[1], vm=vm, vm_uuid=_text(vm_uuid))


_KINDS: Final[dict[Kind, _Kind]] = {
    Kind.VM_SPEC: _Kind(_spec_own, _spec_shared, _spec_blank, _spec_whole),
    Kind.CLAIM: _Kind(
        _claim_own,
        _claim_shared,
        lambda claim: replace(claim, uuid="", volume_uuid="", claim_id="", epoch=0),
        _claim_whole,
    ),
    Kind.VM_STATUS: _Kind(
        _status_own,
        _status_shared,
        lambda s: replace(s, uuid="", epoch=0, since="", ips=(), message="", retry_at="", vnc=""),
        _status_whole,
    ),
    Kind.VOLUME: _Kind(
        lambda volume: (volume.vm, _thin(volume.vm_uuid)),
        _volume_shared,
        lambda volume: replace(volume, uuid="", vm="", vm_uuid=""),
        _volume_whole,
    ),
}
"""Names that are a key's are put in from it: :mod:`.sound` sees to it that a record has those of its key."""


class Rows:
    """Takes records apart and puts them together; keeps the shapes, and who was seen last."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[Kind, tuple[Any, ...]], Record] = {}
        self._recent: dict[int, tuple[Row, Seen[Any]]] = {}
        """By the id of a row, which lives at least as long as it is in here."""

    def of(self, kind: Kind, seen: Seen[Any]) -> Seen[Any] | Row:
        """What to keep of it."""
        how = _KINDS.get(kind)
        if how is None or seen.record is None:
            return seen
        try:
            own = _encode((seen.mod, seen.create, seen.lease, seen.check, *how.own(seen.record)))
            row = Row(self._shared(kind, how, seen.record), own)
        except OverflowError:
            return seen  # JSON knows larger numbers than this
        recent = self._recent
        recent[id(row)] = row, seen
        if len(recent) > RECENT:
            del recent[next(iter(recent))]
        return row

    def whole(self, kind: Kind, names: tuple[str, ...], found: Seen[Any] | Row) -> Seen[Any]:
        """The record again, with what was seen of it."""
        if not isinstance(found, Row):
            return found
        recent = self._recent.get(id(found))
        if recent is not None:
            return recent[1]
        own = _decode(found.own)
        return Seen(_KINDS[kind].whole(found.shape, names, own), own[0], own[1], own[2], check=own[3])

    def shape(self, kind: Kind, found: Seen[Any] | Row, record: Record) -> Record:
        """The part of a record that others share, where rows are kept: ``found`` says whether."""
        if not isinstance(found, Row):
            return record
        recent = self._recent.get(id(found))
        if recent is not None and recent[1].record is record:
            return found.shape
        return self._shared(kind, _KINDS[kind], record)

    def _shared(self, kind: Kind, how: _Kind, record: Record) -> Record:
        key = kind, how.shared(record)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= _SHAPES:
                self._shapes.clear()
            shape = self._shapes[key] = how.blank(record)
        return shape


def shared(found: Seen[Any] | Row) -> Any:
    """The record, or as much of it as others share: node and session of a claim, what a VM needs of a node.
    None when it does not parse."""
    return found.shape if isinstance(found, Row) else found.record
