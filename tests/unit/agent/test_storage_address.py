"""A storage address that changes at run time: declared before anything is booted under it, or no boot."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent_rig import KEYS, Host, Lab, lab_of, vm

from metastack.core.model import NodeAlive, NodeFacts, Placement
from metastack.core.state.codec import decode, encode
from metastack.lab.sim.engine.loop import run
from metastack.storage.twin import MemoryStorage


def _declared(lab: Lab, node: str) -> tuple[str, ...]:
    raw = lab.entry(KEYS.node_facts(node))
    return decode(NodeFacts, raw).storage_addresses if raw else ()


def _alive(lab: Lab, node: str) -> NodeAlive:
    raw = lab.entry(KEYS.node_alive(node))
    return decode(NodeAlive, raw) if raw else NodeAlive(name=node, ready=False)


def _move(host: Host, address: str) -> None:
    assert host.agent is not None
    storage = host.agent.node.storage
    assert isinstance(storage, MemoryStorage)
    storage.moves(address or host.address)


def _watch_opens(lab: Lab, host: Host) -> list[tuple[str, ...]]:
    """What was declared at each moment at which a guest opened its disk."""
    seen: list[tuple[str, ...]] = []

    async def opened(_spec: object) -> None:
        seen.append(_declared(lab, host.name))

    host.hypervisor.disk_opens = opened
    return seen


def test_a_new_address_is_declared_before_the_first_boot(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host = lab.hosts["n1"]
            opens = _watch_opens(lab, host)
            _move(host, "10.0.1.1")
            await lab.want("hello", placement=Placement(node="n1"))
            await lab.until("running", lambda: lab.where("hello") == "n1")
            assert opens == [("10.0.0.1", "10.0.1.1")]

    run(story())


def test_a_new_address_is_declared_without_any_boot(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host = lab.hosts["n1"]
            assert host.agent is not None
            session = host.agent.node.session.number
            _move(host, "10.0.1.1")
            await lab.until("declared", lambda: "10.0.1.1" in _declared(lab, "n1"), 120)
            assert host.agent.node.session.number == session, "its guests are well: it goes on"

    run(story())


def test_another_nodes_address_ends_the_session(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host = lab.hosts["n1"]
            opens = _watch_opens(lab, host)
            _move(host, "10.0.0.2")
            await lab.want("hello", placement=Placement(node="n1"))
            await lab.until("not ready", lambda: host.agent and not host.agent.node.session.ready)
            await asyncio.sleep(30)
            assert host.agent is not None and not host.agent.node.session.ready
            assert "10.0.0.2" in host.agent.node.session.message
            assert (opens, _declared(lab, "n1")) == ([], ("10.0.0.1",))

    run(story())


def test_a_fence_blocks_a_late_declared_address(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host = lab.hosts["n1"]
            _move(host, "10.0.1.1")
            await lab.want("hello", placement=Placement(node="n1"))
            await lab.until("running", lambda: lab.where("hello") == "n1")
            await lab.want("hello", placement=Placement())
            await host.power_cut()
            await lab.until("taken over", lambda: lab.where("hello") in ("n2", "n3"))
            assert {"10.0.0.1", "10.0.1.1"} <= lab.pool.blocked
            host.start()
            _move(host, "10.0.1.1")
            await lab.all_ready()
            assert not {"10.0.0.1", "10.0.1.1"} & lab.pool.blocked, (
                "it lifts both, or it would be ready and shut out"
            )

    run(story())


def test_a_start_under_a_declared_address_keeps_guests(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            host = lab.hosts["n1"]
            await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            _move(host, "10.0.1.1")
            await lab.until("declared", lambda: "10.0.1.1" in _declared(lab, "n1"), 120)
            await host.stop()
            host.start()
            _move(host, "10.0.1.1")
            await lab.all_ready()
            assert _declared(lab, "n1") == ("10.0.0.1", "10.0.1.1"), "a guest may be under the old one"
            assert lab.where("hello") == "n1"

    run(story())


def test_an_address_that_no_client_can_be_under_is_dropped(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            host = lab.hosts["n1"]
            spec = await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            for address in ("10.0.1.1", "10.0.2.1"):
                _move(host, address)
                await lab.until("declared", lambda a=address: a in _declared(lab, "n1"), 120)
            _move(host, "")
            await lab.delete(KEYS.vm_spec(spec.id))
            await lab.until("gone", lambda: lab.entry(KEYS.claim(vm("hello"))) is None)
            assert len(_declared(lab, "n1")) == 3
            lab.pool.blocked.add("10.0.2.1")
            await host.stop()
            host.start()
            await lab.all_ready()
            assert _declared(lab, "n1") == ("10.0.0.1", "10.0.2.1"), "a blocked one stays: unfence lifts it"

    run(story())


def test_no_boot_while_the_own_address_is_unknown(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            from metastack.ports import Unavailable

            host = lab.hosts["n1"]
            opens = _watch_opens(lab, host)
            lab.pool.fail = lambda what, _: Unavailable("no monitor") if what == "own_address" else None
            await lab.want("hello")
            await asyncio.sleep(30)
            assert opens == []
            lab.pool.fail = lambda _what, _: None
            await lab.until("running", lambda: lab.where("hello"), 120)

    run(story())


def test_a_wrong_configured_address_costs_no_sessions(tmp_path: Path) -> None:
    """It registers once, stays so without being ready, and its record says why until it is put right."""

    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host = lab.hosts["n1"]
            await host.stop()
            host.start()
            _move(host, "10.0.1.1")
            await lab.until("said", lambda: "10.0.1.1" in _alive(lab, "n1").message, 30)
            assert host.agent is not None
            session = host.agent.node.session.number
            await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello") in ("n2", "n3"))
            for _ in range(20):
                await asyncio.sleep(5)
                assert host.agent.node.session.number == session, "no session after session"
                alive = _alive(lab, "n1")
                assert (alive.ready, "correct the agent's configuration" in alive.message) == (False, True)
            _move(host, "")
            await lab.until("ready", lambda: _alive(lab, "n1").ready, 30)
            assert host.agent.node.session.number == session
            await lab.until("no message", lambda: not _alive(lab, "n1").message, 10)

    run(story())


def test_a_shared_address_costs_no_sessions(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host = lab.hosts["n1"]
            await host.stop()
            other = NodeFacts(name="n9", uuid="u9", storage_addresses=("10.0.0.1",))
            await lab.put(KEYS.node_facts("n9"), encode(other))
            host.start()
            await lab.until("said", lambda: "n9" in _alive(lab, "n1").message, 30)
            assert host.agent is not None
            session = host.agent.node.session.number
            await asyncio.sleep(120)
            assert host.agent.node.session.number == session
            await lab.delete(KEYS.node_facts("n9"))
            await lab.until("ready", lambda: _alive(lab, "n1").ready, 30)
            assert host.agent.node.session.number == session

    run(story())
