"""Keys that are rotated under a running agent: read again, taught again, and no VM is given back for it."""

from __future__ import annotations

from pathlib import Path

from agent_rig import KEYS, Lab, lab_of, vm

from metastack.core.model import NodeAlive, Phase, VmStatus
from metastack.core.state.codec import decode
from metastack.lab.sim.engine.loop import run
from metastack.ports import CephSecret, Denied
from metastack.storage.twin import MemoryStorage


def key(text: bytes) -> CephSecret:
    return CephSecret(uuid="s", name="client.n", key=text)


def storage_of(lab: Lab, node: str) -> MemoryStorage:
    agent = lab.hosts[node].agent
    assert agent is not None
    found = agent.node.storage
    assert isinstance(found, MemoryStorage)
    return found


def takes_only(lab: Lab, node: str, text: bytes) -> None:
    """From now on the storage takes guests with that key only."""
    hypervisor = lab.hosts[node].hypervisor

    def fail(what: str, _uuid: str) -> Exception | None:
        known = hypervisor.secret.key if hypervisor.secret is not None else b""
        return Denied("error connecting: Permission denied") if what == "start" and known != text else None

    hypervisor.fail = fail


def status(lab: Lab, name: str) -> VmStatus | None:
    raw = lab.entry(KEYS.vm_status(vm(name)))
    return decode(VmStatus, raw) if raw else None


def test_a_refused_guest_is_retried_with_the_new_key(tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            storage_of(lab, "n1").keyring = key(b"new")
            takes_only(lab, "n1", b"new")
            await lab.want("a")
            await lab.until("it runs", lambda: lab.where("a") == "n1", within_s=1)
            found = status(lab, "a")
            assert found is None or found.phase is not Phase.FAILED

    run(play())


def test_a_libvirt_that_has_another_key_is_taught_again(tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            storage_of(lab, "n1").keyring = storage_of(lab, "n1").secret = key(b"right")
            await lab.hosts["n1"].hypervisor.teach_secret(key(b"somebody's"))
            takes_only(lab, "n1", b"right")
            await lab.want("a")
            await lab.until("it runs", lambda: lab.where("a") == "n1", within_s=10)

    run(play())


def test_a_key_is_read_before_a_guest_is_refused(tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            storage_of(lab, "n1").keyring = key(b"new")
            secret = lambda: lab.hosts["n1"].hypervisor.secret  # noqa: E731
            await lab.until("libvirt has it", lambda: secret() == key(b"new"), within_s=200)

    run(play())


def test_a_node_with_a_refused_key_releases_its_vms(tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            address = lab.hosts["n1"].address
            lab.pool.fail = lambda what, whose: (
                Denied("the key is refused") if whose == address and what == "own_address" else None
            )
            await lab.want("a")
            await lab.want("b")
            await lab.until("both run", lambda: lab.where("a") == lab.where("b") == "n2", within_s=60)
            gave_back = [name for name in "ab" if lab.entry(KEYS.penalty(vm(name), "n1")) is not None]
            assert gave_back, "n1 had claimed one of them"

            def refused() -> bool:
                alive = lab.entry(KEYS.node_alive("n1"))
                return alive is not None and not decode(NodeAlive, alive).storage_ok

            await lab.until("it takes nothing", refused, within_s=200)
            lab.pool.fail = lambda _what, _whose: None
            await lab.until("it is well again", lambda: not refused(), within_s=20)

    run(play())
