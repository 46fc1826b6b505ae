"""Agents take their guests' cephx key from a secret, and nothing that they say or write has it."""

from __future__ import annotations

import base64
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from agent_rig import KEYS, Host, Lab, lab_of, vm
from structlog.testing import capture_logs

from metastack.commands.cluster.secrets import delete_secret, put_secret, rotate_secrets
from metastack.commands.doctor import examine
from metastack.commands.doctor.facts import collect
from metastack.commands.request import Cluster, new_request
from metastack.core.model import NodeAlive
from metastack.core.state.codec import decode
from metastack.lab.sim.engine.loop import run
from metastack.ports import CephSecret, Denied
from metastack.secrets.keyring import Keyring, KeyringError, new_key

OLD = Keyring((new_key(datetime.now(UTC)),))
RING = Keyring((*OLD.keys, new_key(datetime.now(UTC), OLD)))


class Keyrings:
    """The keyring file of every host."""

    def __init__(self, found: Keyring | None) -> None:
        self.found, self.why = found, ""

    def __call__(self) -> Keyring:
        if self.found is None:
            raise KeyringError(self.why or "there is none", "", missing=not self.why)
        return self.found


@pytest.fixture
def keyrings(monkeypatch: pytest.MonkeyPatch) -> Keyrings:
    """Every host of a lab has this keyring, and takes its guests' key from the secret ``guests``."""
    keyrings = Keyrings(OLD)
    monkeypatch.setattr(Host, "settings", {"keyring": keyrings, "guest_secret": "guests"})
    monkeypatch.setattr(Host, "libvirt_secret", CephSecret(uuid="s", name="client.n", key=b""))
    return keyrings


def known(lab: Lab, node: str = "n1") -> bytes:
    secret = lab.hosts[node].hypervisor.secret
    return secret.key if secret is not None else b""


def alive(lab: Lab, node: str = "n1") -> NodeAlive:
    raw = lab.entry(KEYS.node_alive(node))
    assert raw is not None
    return decode(NodeAlive, raw)


async def put(lab: Lab, key: bytes, keyring: Keyring = OLD) -> None:
    cluster = Cluster(lab.client, KEYS)
    await put_secret(cluster, new_request(), keyring, "guests", base64.b64encode(key) + b"\n", force=True)


def test_libvirt_learns_a_key_that_is_put_and_replaced(tmp_path: Path, keyrings: Keyrings) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            assert known(lab) == b"", "a secret that is not there keeps no node away"
            for key in (b"first", b"second"):
                await put(lab, key)
                await lab.until("all learned it", lambda want=key: known(lab) == known(lab, "n2") == want)
            await delete_secret(Cluster(lab.client, KEYS), new_request(), "guests")
            await lab.until("it is told", lambda: any("guests" in why for why in alive(lab).warnings))
            assert known(lab) == b"second"

    run(play())


def test_a_node_reads_what_was_rotated(tmp_path: Path, keyrings: Keyrings) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            await put(lab, b"key")
            await lab.until("it learned it", lambda: known(lab) == b"key")
            keyrings.found = RING
            await lab.until("it tells its keys", lambda: alive(lab).secret_keys == RING.ids)
            assert len(await rotate_secrets(Cluster(lab.client, KEYS), new_request(), RING)) == 1
            keyrings.found = Keyring((RING.newest,))
            await lab.until("it tells its key", lambda: alive(lab).secret_keys == (RING.newest.id,))
            await lab.hosts["n1"].crash()
            lab.hosts["n1"].hypervisor.secret = None
            lab.hosts["n1"].start()
            await lab.until("it learned it again", lambda: known(lab) == b"key")

    run(play())


@pytest.mark.parametrize(
    ("keyring", "why", "told"),
    [
        (None, "", "there is none"),
        (None, "others may read it", "others may read it"),
        (Keyring((RING.newest,)), "", "which the keyring lacks"),
    ],
)
def test_a_node_that_cannot_read_it_says_why(
    tmp_path: Path, keyrings: Keyrings, keyring: Keyring | None, why: str, told: str
) -> None:
    async def play() -> None:
        keyrings.found, keyrings.why = keyring, why
        async with lab_of(tmp_path, nodes=1) as lab:
            await put(lab, b"key")
            await lab.until("it says so", lambda: any(told in one for one in alive(lab).warnings))
            assert known(lab) == b""
            facts = await collect(Cluster(lab.client, KEYS), "", datetime.now(UTC))
            assert "secret_keys:node n1" in {finding.name for finding in examine(facts)}

    run(play())


def test_a_value_that_is_no_key_is_not_told(tmp_path: Path, keyrings: Keyrings) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            await put_secret(
                Cluster(lab.client, KEYS), new_request(), OLD, "guests", b"not base64!", force=True
            )
            await lab.until("it says so", lambda: any("no cephx key" in one for one in alive(lab).warnings))
            assert not any("not base64!" in one for one in alive(lab).warnings)

    run(play())


def test_a_value_is_in_no_log_record_or_view(tmp_path: Path, keyrings: Keyrings) -> None:
    raw = os.urandom(24)
    forms: list[bytes] = [raw, base64.b64encode(raw), raw.hex().encode(), repr(raw)[2:-1].encode()]
    forms += [base64.b64encode(bytes(n) + value)[4:-4] for n in range(3) for value in forms[:2]]

    def has(*texts: object) -> bool:
        return any(form in (t if isinstance(t, bytes) else str(t).encode()) for form in forms for t in texts)

    async def play() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            await put(lab, raw)
            await lab.until("all learned it", lambda: known(lab) == known(lab, "n2") == raw)
            await lab.want("a")
            await lab.until("a guest runs", lambda: bool(lab.where("a")))
            for host in lab.hosts.values():
                assert host.agent is not None
                host.hypervisor.fail = lambda what, _: Denied("secret refused") if what == "start" else None
                told = [repr(one) for one in (vars(host.agent._storage_keys), host.hypervisor.secret)]
                assert not has(*told), "no text of what holds a key"
            await lab.want("b")
            await lab.until(
                "no node starts it", lambda: b"refused" in (lab.entry(KEYS.vm_status(vm("b"))) or b"")
            )
            records = [(entry.key, entry.value) for entry in lab.cluster.under("/metastack/")]
            assert any("/secrets/guests" in key for key, _ in records)
            history = [e for e in lab.cluster.events_after(0, "/metastack/") if e.entry is not None]
            assert not has(*(value for _, value in records), *(e.entry.value for e in history))
            for node in lab.hosts.values():
                assert node.agent is not None
                assert not any("secrets" in str(key) for key in node.agent.node.world.revisions())

    with capture_logs() as logs:
        run(play())
    assert logs and not has(*logs)
    assert not has(*(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()))
    assert has({"control": base64.b64encode(b"x" + base64.b64encode(raw))}), "the search finds what is there"
