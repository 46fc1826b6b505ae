"""The last gate in an agent's life: who is named, when it fails, and what a kill clears away."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from agent_rig import IMAGE, KEYS, Lab, lab_of, vm, vm_spec

from metastack.core.domains import DomainState, Opener
from metastack.core.model import BreakLock, Event, Phase, Power, VmSpec, VmStatus
from metastack.core.state.cluster_state import seen
from metastack.core.state.codec import decode, encode
from metastack.core.state.keys import Kind
from metastack.lab.sim.engine.loop import run
from metastack.ports import Denied, DiskInfo, Unavailable

HOST = "10.0.0.1"


def story(test: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """Played on a virtual clock."""

    @wraps(test)
    def play(tmp_path: Path) -> None:
        run(test(tmp_path))

    return play


def _status(lab: Lab, name: str = "a") -> VmStatus | None:
    entry = lab.cluster.get(KEYS.vm_status(vm(name)))
    return seen(VmStatus, entry).record if entry is not None else None


def _phase(lab: Lab) -> str:
    status = _status(lab)
    return status.phase.value if status is not None else ""


class Pool:
    """Who has disks open: guests of the hosts, and whoever a test says."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.others = lab, list[Opener]()
        self.beside = list[Opener]()
        """As soon as a guest has."""
        self.asked: list[str] = []
        lab.pool.holders = self.held

    def held(self, path: str) -> tuple[Opener, ...]:
        self.asked.append(path)
        refuses = self.lab.pool.refuses
        found = []
        for host in self.lab.hosts.values():
            for domain in host.hypervisor.active():
                if path.endswith(domain.volume_uuid):
                    client = f"{host.address}:0/{1000 + domain.epoch % 1000}"
                    found.append(Opener(client=client, address=host.address, locking=True))
        return tuple(
            Opener(**{**{f: getattr(o, f) for f in o.__struct_fields__}, "shut_out": refuses(o.client)})
            for o in (*found, *(self.beside if found else ()), *self.others)
        )


def stranger(address: str, number: int = 7, **more: object) -> Opener:
    return Opener(client=f"{address}:0/{number}", address=address, **{"locking": True, **more})  # type: ignore[arg-type]


async def _wanted(lab: Lab) -> VmSpec:
    spec = vm_spec("a")
    lab.pool.disks[spec.volume_uuid] = DiskInfo(
        uuid=spec.volume_uuid, size_bytes=spec.disk_bytes, parent_image_uuid=IMAGE
    )
    return await lab.want("a")


@story
async def test_a_held_disk_delays_then_fails_the_start(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        pool = Pool(lab)
        pool.others = [stranger("10.0.0.77")]
        await _wanted(lab)
        took_s = await lab.until("it waits", lambda: _phase(lab) == Phase.WAITING)
        status = _status(lab)
        assert status is not None
        assert status.message == "its disk is open by 10.0.0.77:0/7 at 10.0.0.77"
        assert status.disk_held_by == "10.0.0.77:0/7"
        took_s = await lab.until("it fails", lambda: _phase(lab) == Phase.FAILED)
        assert 35 < took_s < 45
        status = _status(lab)
        assert status is not None
        assert status.message == (
            "its disk is open by 10.0.0.77:0/7 at 10.0.0.77; close it there; if the client never returns: "
            "metastack vm break-lock default/a --yes --reason WHY"
        )
        asked = len(pool.asked)
        pool.others = []
        took_s = await lab.until("it runs", lambda: _phase(lab) == Phase.RUNNING)
        assert took_s < 31
        assert len(pool.asked) - asked < 6, "it is asked less and less often"
        status = _status(lab)
        assert status is not None
        assert (status.message, status.disk_held_by) == ("", "")


@story
async def test_a_storage_that_does_not_tell_starts_nothing(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        Pool(lab)
        lab.pool.fail = lambda what, _: Unavailable("no answer") if what == "openers" else None
        await _wanted(lab)
        await lab.until("it says so", lambda: "no answer" in (getattr(_status(lab), "message", "")))
        assert lab.where("a") == ""
        lab.pool.fail = lambda what, _: None
        await lab.until("it runs", lambda: lab.where("a") == "n1")


@story
async def test_a_kill_evicts_the_guests_own_client(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        pool, hypervisor = Pool(lab), lab.hosts["n1"].hypervisor
        await _wanted(lab)
        await lab.until("noted", lambda: any(d.clients for d in hypervisor.active()))
        (domain,) = hypervisor.active()
        (mine,) = domain.clients
        pool.others = [stranger(HOST, int(mine.rpartition("/")[2]))]  # killed, it leaves its lock
        await lab.want("a", power=Power.OFF, force=True)
        await lab.until("released", lambda: lab.entry(KEYS.claim(vm("a"))) is None)
        assert mine in lab.pool.blocked
        assert mine in lab.pool.broken


@story
async def test_of_two_local_clients_neither_is_assumed_own(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        pool, hypervisor = Pool(lab), lab.hosts["n1"].hypervisor
        pool.beside = [stranger(HOST, 5)]
        await _wanted(lab)
        await lab.until("boots", lambda: lab.where("a"))
        asked = len(pool.asked)
        await lab.until("looked", lambda: len(pool.asked) > asked + 1, 120)
        assert [d.clients for d in hypervisor.active()] == [()]


@story
async def test_a_qemu_lost_by_libvirtd_waits_for_a_person(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        Pool(lab)
        hypervisor = lab.hosts["n1"].hypervisor
        await _wanted(lab)
        await lab.until("boots", lambda: lab.where("a"))
        (domain,) = hypervisor.active()
        hypervisor.lose(domain.uuid)
        hypervisor.daemon_dies()
        hypervisor.daemon_returns()
        await lab.until("it is said", lambda: _phase(lab) == Phase.FAILED)
        status = _status(lab)
        assert status is not None
        assert "runs on n1, and libvirtd has lost it" in status.message
        assert [d.uuid for d in hypervisor.active()] == [domain.uuid], "nothing runs beside it"
        await lab.want("a", run=2, force=True)
        await lab.until("it runs anew", lambda: _phase(lab) == Phase.RUNNING)
        assert [(d.run, d.state) for d in hypervisor.active()] == [(2, DomainState.RUNNING)]


@story
async def test_a_lost_node_is_fenced_for_its_client(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=3) as lab:
        pool = Pool(lab)
        await lab.hosts["n2"].power_cut()
        lab.hosts["n2"].store = None
        await lab.until("gone", lambda: lab.entry(KEYS.node_alive("n2")) is None)
        pool.others = [stranger("10.0.0.2")]
        assert lab.pool.blocked == set(), "a switched-off host without such a client is left alone"
        await _wanted(lab)
        await lab.until("fenced", lambda: "10.0.0.2" in lab.pool.blocked)
        fence = lab.entry(KEYS.fence("n2"))
        assert fence is not None
        await lab.until("it runs", lambda: lab.where("a"))
        done = lab.entry(KEYS.fence("n2"))
        assert done is not None
        assert b"its disk is open by 10.0.0.2:0/7 at 10.0.0.2" in done


@pytest.mark.parametrize("resumes", [True, False])
def test_a_paused_guest(resumes: bool, tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            pool, hypervisor = Pool(lab), lab.hosts["n1"].hypervisor
            await _wanted(lab)
            await lab.until("noted", lambda: any(d.clients for d in hypervisor.active()))
            (domain,) = hypervisor.active()
            await lab.want("a", paused_epoch=domain.epoch)
            await lab.until("paused", lambda: _phase(lab) == Phase.PAUSED)
            pool.others = [] if resumes else [stranger("10.0.0.77")]
            await lab.want("a")
            if resumes:
                await lab.until("runs", lambda: _phase(lab) == Phase.RUNNING)
                return
            await lab.until("said", lambda: getattr(_status(lab), "disk_held_by", "") == "10.0.0.77:0/7")
            assert _phase(lab) == Phase.PAUSED
            pool.others = []
            await lab.until("runs", lambda: _phase(lab) == Phase.RUNNING)

    run(play())


@story
async def test_a_guest_of_an_older_agent_that_stopped_is_resumed(tmp_path: Path) -> None:
    """No metadata says which client it is: one client of this host is its own."""
    async with lab_of(tmp_path, nodes=1) as lab:
        Pool(lab)
        host = lab.hosts["n1"]
        await _wanted(lab)
        await lab.until("noted", lambda: any(domain.clients for domain in host.hypervisor.active()))
        await host.crash()
        (domain,) = host.hypervisor.active()
        await host.hypervisor.note_clients(domain.uuid, ())
        await host.hypervisor.pause(domain.uuid)
        host.start()
        await lab.until("it runs on", lambda: _phase(lab) == Phase.RUNNING)
        await lab.until("resumed", lambda: host.hypervisor.active()[0].state is DomainState.RUNNING)
        assert host.hypervisor.active()[0].epoch == domain.epoch, "the same guest"


@story
async def test_an_unreadable_request_is_answered_and_blocks_nothing(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        Pool(lab)
        spec = await _wanted(lab)
        await lab.until("it runs", lambda: _phase(lab) == Phase.RUNNING)
        lab.pool.fail = lambda what, _: Denied("may not list watchers") if what == "openers" else None
        claim = lab.cluster.get(KEYS.claim(spec.id))
        assert claim is not None
        asked = BreakLock(
            uuid=spec.uuid, claim=claim.mod_revision, client="10.0.0.77:0/7", at_ms=1, by="me", reason="x",
            request_id="r",
        )  # fmt: skip
        await lab.put(KEYS.break_lock(spec.id), encode(asked))
        await lab.want("a", power=Power.OFF, force=True)
        await lab.until("it is stopped", lambda: lab.where("a") == "", 20)
        assert lab.entry(KEYS.break_lock(spec.id)) is None
        events = [decode(Event, e.value) for e in lab.cluster.under(KEYS.prefix(Kind.EVENT))]
        told = [event.message for event in events if event.what == "vm.break-lock.refused"]
        assert told == ["may not list watchers"]
