"""What a record must satisfy beyond its types before anything may act on it.

Owns: the answer to "can an agent work with this record". Refuses: repairing anything.
Rule: text that becomes part of a key, a file or an image name, and numbers that are added or compared, are
checked here, once, when the record is read. What fails is unreadable, like bytes that do not parse: that one
object is left alone. Without it one bad record, written by hand, ends every agent of a cluster.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from ..model import (
    BreakLock,
    Claim,
    ClusterConfig,
    Counted,
    Fence,
    Generation,
    Image,
    Import,
    NodeAlive,
    NodeFacts,
    NodeSpec,
    Penalty,
    Record,
    Refusal,
    StorageIdentity,
    Trashed,
    VmSpec,
    Volume,
    valid_name,
)
from ..syslog_target import parse_syslog_target

_IDENT: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
"""A UUID, as far as safety needs it: nothing that means something in a path or a key."""
_CLIENT: Final = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[0-9.]{7,15}):[0-9]{1,5}/[0-9]{1,20}")
"""A client of Ceph: address, port and nonce. Nonce 0 would be a whole address."""
_USER: Final = re.compile(r"[A-Za-z0-9._-]{0,128}")
_TOKEN_END: Final = 1 << 63
_GENERATION_END: Final = 1 << 16


def flaw(record: Record, key: str) -> str:
    """Why nothing may act on this record; empty when it is sound. ``key`` is where it was found."""
    names = key.split("/")
    match record:
        case VmSpec():
            # Safety: a spec that was copied to another key would bring a second writer to its disk, and one
            # whose names are another VM's would lead that VM's owner to this one's domain and disk.
            return _first(
                _is("project and name", f"{record.project}/{record.name}", "/".join(names[-2:])),
                _idents(uuid=record.uuid, image_uuid=record.image_uuid, volume_uuid=record.volume_uuid),
                _between("cpus", record.cpus, 1, 1024),
                _between("memory_mib", record.memory_mib, 1, 1 << 26),
                _between("disk_bytes", record.disk_bytes, 1, 1 << 60),
                _between("run", record.run, 0, 1 << 53),
                _between("paused_epoch", record.paused_epoch, 0, _TOKEN_END),
                # Less than nothing would add capacity.
                *(_between(f"resources.{what}", n, 0, 1 << 53) for what, n in record.resources.items()),
            )
        case Claim():
            return _first(
                "" if valid_name(record.node) else f"node: {_shown(record.node)} is no node's name",
                _idents(uuid=record.uuid, volume_uuid=record.volume_uuid),
                # They become part of keys: fences and nodes are looked up by them.
                *(_node("taken_before", name) for name in (*record.taken_before, record.taken_from) if name),
                _between("session", record.session, 0, _TOKEN_END),
                _between("epoch", record.epoch, 0, _TOKEN_END),
                _between("generation", record.generation, 0, _GENERATION_END),
            )
        case Volume():
            return _first(
                _is("project and uuid", f"{record.project}/{record.uuid}", "/".join(names[-2:])),
                _idents(uuid=record.uuid),
                "" if valid_name(record.vm) else f"vm: {_shown(record.vm)} is no VM's name",
                _between("trash_retention_s", record.trash_retention_s, 0, 1 << 32),
            )
        case Trashed():
            return _first(
                _is("uuid", record.uuid, names[-1]),
                _idents(uuid=record.uuid, vm_uuid=record.vm_uuid),
                "" if record.ident else "ident: names no object",
                _between("until_ms", record.until_ms, 0, 1 << 53),
                _between("retention_s", record.retention_s, 0, 1 << 32),
                _between("counted_s", record.counted_s, 0, 1 << 53),
            )
        case BreakLock():
            # They become the key of the event that answers it.
            return _first(
                _idents(uuid=record.uuid, request_id=record.request_id or "none"),
                _between("at_ms", record.at_ms, 0, 10**14 - 1),
            )
        case Counted():
            return _between("seconds", record.seconds, 0, 1 << 53)
        case Import():
            return _first(_is("uuid", record.uuid, names[-1]), _idents(uuid=record.uuid))
        case Fence():
            fencer = record.intent_by
            return _first(
                "" if not record.intent or (fencer and "/" not in fencer) else "intent_by: names no fencer",
                _between("through", record.through, 0, _TOKEN_END),
                _between("intent_through", record.intent_through, 0, _TOKEN_END),
                _between("generation", record.generation, 0, _GENERATION_END),
            )
        case NodeFacts():
            return _first(
                _is("name", record.name, names[-1]),
                _addresses(record.storage_addresses),
                _between("generation", record.generation, 0, _GENERATION_END),
                _clients(record.storage_clients),
                "" if _USER.fullmatch(record.storage_guest_user) else "storage_guest_user: is no cephx user",
            )
        case Refusal():
            return _first(
                _is("name", record.name, names[-1]),
                _addresses(record.storage_addresses),
                _between("generation", record.generation, 0, _GENERATION_END - 2),
                *(_between("epoch", one.epoch, 0, _TOKEN_END) for one in record.running),
            )
        case NodeAlive():
            return _first(
                _is("name", record.name, names[-1]),
                _between("generation", record.generation, 0, _GENERATION_END),
                _between("capacity.cpus", record.capacity.cpus, 0, 1 << 20),
                _between("capacity.memory_mib", record.capacity.memory_mib, 0, 1 << 40),
                *(_between(f"capacity.{w}", n, 0, 1 << 53) for w, n in record.capacity.other.items()),
            )
        case NodeSpec():
            return _first(
                _between("overcommit_cpu", record.overcommit_cpu or 1.0, 0.0, 1024.0),
                _between("overcommit_memory", record.overcommit_memory or 1.0, 0.0, 1024.0),
                *(_between(f"overcommit.{what}", n, 0.0, 1024.0) for what, n in record.overcommit.items()),
            )
        case Penalty():
            return _between("spec_mod", record.spec_mod, 0, _TOKEN_END)
        case Image():
            return _idents(uuid=record.uuid)
        case ClusterConfig():
            return _target(record.syslog)
        case StorageIdentity():
            return _first(
                _idents(cluster_id=record.cluster_id), _between("pool_id", record.pool_id, 0, 1 << 53)
            )
        case Generation():
            return _between("generation", record.generation, 0, _GENERATION_END)
        case _:
            return ""


def _first(*flaws: str) -> str:
    # Plain loops here and below: this runs for every record of every event.
    for found in flaws:
        if found:
            return found
    return ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "...")


def _is(field: str, found: str, there: str) -> str:
    return "" if found == there else f"{field}: {_shown(found)}, but it lies under {_shown(there)}"


def _node(field: str, name: str) -> str:
    return "" if valid_name(name) else f"{field}: {_shown(name)} is no node's name"


def _idents(**fields: str) -> str:
    for name, text in fields.items():
        if _IDENT.fullmatch(text) is None:
            return f"{name}: {_shown(text)} is no UUID"
    return ""


def _between(field: str, value: float, low: float, high: float) -> str:
    return "" if low <= value <= high else f"{field}: not between {low:g} and {high:g}"


def _addresses(addresses: Iterable[str]) -> str:
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return f"storage_addresses: {_shown(address)} is no IP address"
    return ""


def _target(url: str) -> str:
    try:
        parse_syslog_target(url)
    except ValueError as error:
        return f"syslog: {error}"
    return ""


def _clients(clients: Iterable[str]) -> str:
    bad = next((c for c in clients if _CLIENT.fullmatch(c) is None or c.endswith(":0/0")), "")
    return f"storage_clients: {_shown(bad)} is no client's address" if bad else ""
