"""The last gate's table: who has the disk open, and what follows."""

from __future__ import annotations

import pytest

from metastack.core.boot_gate import (
    UNWATCHED_S,
    AllowBoot,
    BreakLock,
    EvictClient,
    FenceFirst,
    GateView,
    Verdict,
    WaitForClient,
    judge,
    may_break,
    told,
)
from metastack.core.domains import Opener

MINE, OTHER, STRANGE = "10.0.0.1", "10.0.0.2", "10.0.0.99"


def client(address: str, number: int = 1, **more: object) -> Opener:
    return Opener(client=f"{address}:0/{number}", address=address, **{"locking": True, **more})  # type: ignore[arg-type]


def asked(*openers: Opener, **more: object) -> GateView:
    fields: dict[str, object] = {
        "openers": openers, "node": "n1", "here": frozenset({MINE}), "nodes": {OTHER: "n2"},
        "alive": frozenset({"n1", "n2"}),
    }  # fmt: skip
    return GateView(**{**fields, **more})  # type: ignore[arg-type]


A, B = client(MINE), client(OTHER)
OWN = {"own": frozenset({A.client})}
LONG = {"unwatched_s": {B.client: UNWATCHED_S, A.client: UNWATCHED_S}}
SILENT = client(OTHER, watching=False)
FILE = Opener(client="qemu-system-x86 (process 77)", locking=True, pid=77)


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        pytest.param(asked(), AllowBoot(), id="nobody"),
        pytest.param(asked(client(OTHER, locking=False, shut_out=True)), AllowBoot(), id="shut out"),
        pytest.param(
            asked(client(OTHER, shut_out=True)), BreakLock(B.client, OTHER), id="shut out, its lock is left"
        ),
        pytest.param(asked(B), WaitForClient(B, "node n2"), id="a living node's"),
        pytest.param(asked(B, alive=frozenset({"n1"})), FenceFirst("n2", B), id="a lost node's"),
        pytest.param(
            asked(B, alive=frozenset({"n1"}), shared=True),
            WaitForClient(B, ""),
            id="a shared address names nobody",
        ),
        pytest.param(asked(client(STRANGE)), WaitForClient(client(STRANGE), ""), id="nobody's address"),
        pytest.param(asked(SILENT), WaitForClient(SILENT, "node n2", soon=True), id="silent, just seen"),
        pytest.param(
            asked(SILENT, **LONG),
            EvictClient(
                B.client, "it holds the lock and was silent for longer than Ceph's watch timeout", False
            ),
            id="silent, seen before",
        ),
        pytest.param(
            asked(A), WaitForClient(A, "node n1, and not the VM's own QEMU"), id="rbd map on this host"
        ),
        pytest.param(
            asked(A, **OWN),
            EvictClient(A.client, "its QEMU on this host has ended", True),
            id="its own, and dead",
        ),
        pytest.param(
            asked(A, **OWN, shared=True),
            EvictClient(A.client, "its QEMU on this host has ended", True),
            id="its own, and dead, at a shared address",
        ),
        pytest.param(
            asked(A, **OWN, here=frozenset({OTHER})),
            WaitForClient(A, ""),
            id="recorded on another host (cloned)",
        ),
        pytest.param(
            asked(A, B, **OWN), EvictClient(A.client, "its QEMU on this host has ended", True), id="both"
        ),
        pytest.param(asked(A, **OWN, resuming=True, pid=7), AllowBoot(), id="resumed: itself"),
        pytest.param(
            asked(A, client(MINE, 2), **OWN, resuming=True, pid=7),
            WaitForClient(client(MINE, 2), "node n1, and not the VM's own QEMU"),
            id="resumed: rbd map beside it",
        ),
        pytest.param(
            asked(A, resuming=True, pid=7),
            WaitForClient(A, "node n1, and not the VM's own QEMU"),
            id="resumed: not recorded as its own",
        ),
        pytest.param(
            asked(A, B, **OWN, resuming=True, pid=7), WaitForClient(B, "node n2"), id="resumed: elsewhere too"
        ),
        pytest.param(asked(FILE), WaitForClient(FILE, "on n1"), id="a file's lock"),
        pytest.param(asked(FILE, resuming=True, pid=77), AllowBoot(), id="a file, resumed: itself"),
        pytest.param(
            asked(FILE, resuming=True, pid=78), WaitForClient(FILE, "on n1"), id="a file, resumed: another"
        ),
        pytest.param(
            asked(client(STRANGE, watching=False, by_hand=True, shut_out=True), unwatched_s={"x": 99.0}),
            WaitForClient(client(STRANGE, watching=False, by_hand=True, shut_out=True), ""),
            id="locked by hand, whoever that was",
        ),
    ],
)
def test_verdicts(facts: GateView, verdict: Verdict) -> None:
    assert judge(facts) == verdict


@pytest.mark.parametrize("more", [{}, OWN])
def test_nothing_starts_beside_a_qemu_that_libvirtd_does_not_know(more: dict[str, object]) -> None:
    found = judge(asked(A, pid=4711, **more))
    assert isinstance(found, WaitForClient)
    assert told(found) == (
        "its QEMU process 4711 runs on n1, unknown to libvirtd: end it there (kill 4711), "
        "or stop the VM, which ends it"
    )
    assert isinstance(judge(asked(pid=4711)), WaitForClient), "also when the storage sees no client"


def test_what_people_are_told() -> None:
    assert told(WaitForClient(B, "node n2")) == "its disk is open by 10.0.0.2:0/1 at 10.0.0.2 (node n2)"
    assert told(WaitForClient(client(STRANGE, by_hand=True), "")) == (
        "its disk is locked by hand by 10.0.0.99:0/1 at 10.0.0.99"
    )
    assert told(WaitForClient(FILE, "on n1")) == "its disk is open by qemu-system-x86 (process 77) (on n1)"


def test_clients_that_a_person_may_evict() -> None:
    assert may_break(asked(), B) == "10.0.0.2:0/1 is a client of n2, which is alive: close the disk there"
    assert "n1, which is alive" in may_break(asked(), A)
    assert not may_break(asked(alive=frozenset({"n1"})), B)
    assert not may_break(asked(), SILENT), "its process has ended, whoever's it was"
    assert not may_break(asked(), client(STRANGE))
    assert not may_break(asked(shared=True), B), "nobody knows whose it is: a person does"
    assert "only the end of that process" in may_break(asked(), FILE)
