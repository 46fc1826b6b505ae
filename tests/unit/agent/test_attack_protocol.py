"""Interleavings and mistakes that would give a disk two writers, lose a guest, or let a VM wait for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from agent_rig import KEYS, Host, lab_of, vm, vm_spec

from metastack.core.model import Image, ImageState, NodeAlive, Placement, Power, Resources
from metastack.core.placement import PlacementEngine
from metastack.core.state.cluster_state import ClusterState, seen
from metastack.core.state.codec import encode
from metastack.lab.sim.engine.loop import run


def _runs(lab, name: str) -> list[str]:
    return [host.name for host in lab.hosts.values() if f"default/{name}" in host.running()]


def test_a_late_watch_keeps_a_release_unsettled(tmp_path: Path) -> None:
    """Stopped, then started again; n1's release lands with its reply lost, its watch shows the start only."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            n1, n2 = lab.hosts["n1"], lab.hosts["n2"]
            n1.hypervisor.graceful_s = None
            spec = await lab.want("hello", placement=Placement(node="n1"))
            await lab.until("running", lambda: lab.where("hello"))
            held = lab.cluster.get(KEYS.claim(vm("hello")))
            assert held is not None and n1.store is not None and n1.agent is not None
            # The informer of n1 gets what was written before its own release, and no more for a while.
            off = msgspec.structs.replace(spec, power=Power.OFF, force=True)
            await lab.put(KEYS.vm_spec(spec.id), encode(off))
            world, apply = n1.agent.node.world, lab.cluster.apply
            released = asyncio.Event()
            on = msgspec.structs.replace(spec, run=2, placement=Placement(node="n2"))

            def applied(change):  # the start comes just before the release
                if change.name == "release" and not released.is_set():
                    released.set()
                    lab.cluster.apply = apply
                    from metastack.core.transaction import Put, Transaction

                    apply(
                        Transaction(name="start", guards=(), effects=(Put(KEYS.vm_spec(spec.id), encode(on)),))
                    )
                    n1.store.lose_next_reply()
                    outcome = apply(change)
                    held_back.append(lab.cluster.revision)
                    return outcome
                return apply(change)

            held_back: list[int] = []
            whole = world.apply

            def part(batch):
                if not held_back:
                    return whole(batch)
                kept = tuple(e for e in batch.events if e.revision < held_back[0])
                rest.extend(e for e in batch.events if e.revision >= held_back[0])
                last = min(batch.revision, held_back[0] - 1)
                return whole(msgspec.structs.replace(batch, events=kept, revision=last))

            rest: list[object] = []
            world.apply = part  # type: ignore[method-assign]
            lab.cluster.apply = applied
            await lab.until("released", released.is_set)
            for _ in range(2000):
                assert len(_runs(lab, "hello")) <= 1
                boots = [d for d in n1.hypervisor.known() if d.name == "hello" and d.run == 2]
                assert not boots, "n1 boots under a claim that it released itself"
                await asyncio.sleep(0.01)
            await lab.until("runs on n2", lambda: _runs(lab, "hello") == ["n2"])
            assert n2.running() == ["default/hello"]

    run(story())


def test_a_second_machine_of_my_name_never_adopts(tmp_path: Path) -> None:
    """n1 loses etcd and runs on; a machine installed from its image starts as n1, too."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            n1 = lab.hosts["n1"]
            await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            assert n1.store is not None
            n1.store.partition()
            await lab.until("its lease is over", lambda: not lab.entry(KEYS.node_alive("n1")))
            twin = Host(lab, "n1", 9)
            twin.folder = tmp_path / "twin"
            lab.hosts["twin"] = twin
            twin.hypervisor._locks = {}  # no image lock: as on Ceph
            twin.start()
            (twin.folder / "node-uuid").write_text("another-machine")
            for _ in range(6000):
                assert len(_runs(lab, "hello")) <= 1, _runs(lab, "hello")
                await asyncio.sleep(0.01)
            await twin.crash()

    run(story())


def test_two_specs_of_one_disk_never_run_both(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            for host in lab.hosts.values():
                host.hypervisor._locks = {}
            one = await lab.want("one", placement=Placement(node="n1"))
            await lab.want("two", placement=Placement(node="n2"), volume_uuid=one.volume_uuid)
            await asyncio.sleep(30)
            assert len(_runs(lab, "one")) + len(_runs(lab, "two")) == 1
            copied = KEYS.vm_spec(vm("three"))  # `etcdctl get one | etcdctl put three`
            await lab.put(copied, encode(one))
            await asyncio.sleep(30)
            assert sum(len(host.running()) for host in lab.hosts.values()) == 1

    run(story())


def test_a_graceful_stop_that_takes_long_costs_no_guest(tmp_path: Path) -> None:
    """A call of the storage is slow while the agent is upgraded: nobody fences the node meanwhile."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=3) as lab:
            await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            there = lab.where("hello")
            host = lab.hosts[there]
            lab.pool.delay_s = lambda what: 20.0 if what == "create_disk" else 0.0
            await lab.want("other", placement=Placement(node=there))
            await lab.until("it is being made", lambda: lab.entry(KEYS.claim(vm("other"))))
            await host.stop()
            assert not lab.pool.blocked
            host.start()
            await lab.all_ready()
            assert lab.where("hello") == there

    run(story())


def test_a_wrong_root_kills_nothing(tmp_path: Path) -> None:
    """The agent comes back with another etcd in its configuration: an empty one."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            known = Image(name="debian", uuid="11111111-0000-4000-8000-000000000000", state=ImageState.READY)
            await lab.put(KEYS.image("debian"), encode(known))
            await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            n1, right = lab.hosts["n1"], lab.cluster
            await n1.crash()
            lab.cluster = type(right)()
            n1.start()
            await asyncio.sleep(200)
            assert lab.where("hello") == "n1" and lab.pool.images
            await n1.crash()
            lab.cluster = right
            n1.start()
            await lab.all_ready()
            assert lab.where("hello") == "n1"

    run(story())


def test_vms_that_fit_nowhere_keep_nobody_waiting() -> None:
    world, revision = ClusterState(KEYS), 0

    def put(key: str, record) -> None:
        nonlocal revision
        from metastack.core.transaction import Batch, Entry, KeyEvent

        revision += 1
        entry = Entry(key, encode(record), revision, revision, 1)
        assert seen(type(record), entry).record is not None
        world.apply(Batch(revision, (KeyEvent(key, revision, entry),)))

    put(KEYS.node_alive("n1"), NodeAlive(name="n1", ready=True, bridges=("br0",),
                                         capacity=Resources(cpus=64, memory_mib=1 << 18)))  # fmt: skip
    for number in range(600):
        spec = vm_spec(f"lost-{number}", placement=Placement(node="gone"))
        put(KEYS.vm_spec(spec.id), spec)
    fits = vm_spec("fits")
    put(KEYS.vm_spec(fits.id), fits)
    assert PlacementEngine(world).waiting[fits.id].head == ("n1",)


def test_a_release_whose_event_was_lost_is_not_booted_over(tmp_path: Path) -> None:
    """etcd never delivers n1's own release to n1, and everything after it: n1 still thinks the VM its own."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            for host in lab.hosts.values():
                host.hypervisor._locks = {}  # no image lock: as on Ceph
            n1, n2 = lab.hosts["n1"], lab.hosts["n2"]
            spec = await lab.want("hello", placement=Placement(node="n1"))
            await lab.until("running", lambda: lab.where("hello"))
            assert n1.agent is not None and n2.store is not None
            n2.store.watch_lag_s = lambda: 0.3
            world = n1.agent.node.world
            whole, claim = world.apply, KEYS.claim(vm("hello"))

            def part(batch):
                kept = tuple(e for e in batch.events if not (e.key == claim and e.entry is None))
                return whole(msgspec.structs.replace(batch, events=kept))

            world.apply = part  # type: ignore[method-assign]
            off = msgspec.structs.replace(spec, power=Power.OFF, force=True)
            await lab.put(KEYS.vm_spec(spec.id), encode(off))
            await lab.until("released", lambda: not lab.entry(claim))
            on = msgspec.structs.replace(spec, run=2, placement=Placement(node="n2"))
            await lab.put(KEYS.vm_spec(spec.id), encode(on))
            for _ in range(6000):
                assert not [d for d in n1.hypervisor.known() if d.run == 2], "booted without a claim"
                await asyncio.sleep(0.01)
            assert _runs(lab, "hello") == ["n2"]

    run(story())
