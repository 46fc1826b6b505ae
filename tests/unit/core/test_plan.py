"""The rulebook as a table: named facts, one action."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from metastack.core import plan
from metastack.core.domains import Domain, DomainState, EndReason
from metastack.core.model import Claim, Fence, Halt, Power, VmId, VmSpec
from metastack.core.plan import VmSnapshot
from metastack.core.state.cluster_state import Seen

ME, OTHER = "n1", "n2"
S, OLD = 100, 50
EPOCH = 110
UUID, ANEW = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002"


def seen(record: Any, mod: int = 7) -> Seen[Any]:
    return Seen(record, mod, mod)


def spec(**more: Any) -> Seen[Any]:
    fields: dict[str, Any] = dict(
        project="default", name="vm", uuid=UUID, image="i", image_uuid="i", volume_uuid="v", cpus=1,
        memory_mib=64, disk_bytes=1,
    )  # fmt: skip
    return seen(VmSpec(**{**fields, **more}))


def claim(
    node: str = ME, session: int = S, uuid: str = UUID, epoch: int = EPOCH, to_release: bool = False
) -> Seen[Any]:
    kept: dict[str, Any] = dict(volume_uuid="v", claim_id="c", to_release=to_release)
    return seen(Claim(node=node, session=session, uuid=uuid, epoch=epoch, **kept))


def domain(state: DomainState = DomainState.RUNNING, **more: Any) -> Domain:
    fields: dict[str, Any] = dict(
        uuid=UUID, project="default", name="vm", state=state, session=S, epoch=EPOCH, run=1
    )
    return Domain(**{**fields, **more})


BROKEN: Seen[Any] = Seen(None, 7, 7, 0, "version 9 is newer")
RUNNING, PAUSED, DEFINED = DomainState.RUNNING, DomainState.PAUSED, DomainState.DEFINED
GIVE, KEEP = plan.HostStop.RELEASE, plan.HostStop.KEEP
OFF = spec(power=Power.OFF)
HALTED = seen(Halt(uuid=UUID, run=1, at="", node=ME))
FENCED = seen(Fence(through=60))

TABLE: list[tuple[str, dict[str, Any], Any]] = [
    # --- nobody answers for it
    ("wanted, I rank first: claim", dict(spec=spec(), rank=0), plan.TakeClaim()),
    ("wanted, I rank second: wait my turn", dict(spec=spec(), rank=1, delay_s=0.03, waited_s=0.01), plan.Idle),
    ("wanted, second, and the turn has come", dict(spec=spec(), rank=1, delay_s=0.03, waited_s=0.05), plan.TakeClaim()),
    ("wanted, I would refuse it", dict(spec=spec(), rank=None), plan.Idle),
    ("wanted, but I am not ready (CE1)", dict(spec=spec(), rank=0, ready=False), plan.Idle),
    ("wanted, but I have no session", dict(spec=spec(), rank=0, session=0, ready=False), plan.Idle),
    ("off: nothing", dict(spec=OFF, rank=0), plan.Idle),
    ("the guest switched itself off: nothing", dict(spec=spec(), halt=HALTED, rank=0), plan.Idle),
    ("started again after that", dict(spec=spec(run=2), halt=HALTED, rank=0), plan.ForgetHalt()),
    ("halt of a VM that is gone", dict(halt=HALTED), plan.ForgetHalt()),
    ("halt of an older VM of this name", dict(spec=spec(uuid=ANEW), halt=HALTED, rank=0), plan.ForgetHalt()),
    ("the spec cannot be read: left alone", dict(spec=BROKEN, rank=0), plan.Idle),
    ("... also when a domain of it runs", dict(spec=BROKEN, claim=claim(), domains=(domain(),)), plan.Idle),
    ("the claim cannot be read: left alone", dict(spec=spec(), claim=BROKEN, domains=(domain(),)), plan.Idle),
    # --- mine
    ("mine, no domain: boot", dict(spec=spec(), claim=claim()), plan.Boot()),
    ("mine, taken over while it was off: released, whatever is wished since", dict(spec=spec(), claim=claim(to_release=True)), plan.Release()),
    ("mine, it cannot start here: given back", dict(spec=spec(), claim=claim(), give_back="no QEMU"), plan.Release(penalty="no QEMU")),
    ("... under maintenance: tried again here", dict(spec=spec(), claim=claim(), give_back="no QEMU", paused="why"), plan.Boot()),
    ("wanted, under maintenance: claimed as ever", dict(spec=spec(), rank=0, paused="why"), plan.TakeClaim()),
    ("mine, it just crashed: wait", dict(spec=spec(), claim=claim(), retry_in_s=3.0), plan.Idle),
    ("mine of an older session: adopt", dict(spec=spec(), claim=claim(session=OLD)), plan.Adopt()),
    ("... also with its domain", dict(spec=spec(), claim=claim(session=OLD), domains=(domain(),)), plan.Adopt()),
    ("adopted: the domain gets my session", dict(spec=spec(), claim=claim(), domains=(domain(session=OLD),)), plan.Retag(UUID)),
    ("mine and running", dict(spec=spec(), claim=claim(), domains=(domain(),)), plan.Publish()),
    ("mine, not ready: not even a boot", dict(spec=spec(), claim=claim(), ready=False), plan.Idle),
    ("mine, off: ask it to stop", dict(spec=OFF, claim=claim(), domains=(domain(),)), plan.AskToStop(UUID)),
    ("... asked a moment ago", dict(spec=OFF, claim=claim(), domains=(domain(),), stop_left_s=50, ask_again_in_s=4), plan.Idle),
    ("... patience is over", dict(spec=OFF, claim=claim(), domains=(domain(),), stop_left_s=0), plan.Kill),
    ("... by force", dict(spec=spec(power=Power.OFF, force=True), claim=claim(), domains=(domain(),)), plan.Kill),
    ("... paused: it cannot follow", dict(spec=OFF, claim=claim(), domains=(domain(PAUSED),)), plan.Kill),
    ("... it followed", dict(spec=OFF, claim=claim(), domains=(domain(DEFINED, end=EndReason.SHUTDOWN),)), plan.Kill),
    ("mine, off, no domain: release", dict(spec=OFF, claim=claim()), plan.Release()),
    ("mine, spec gone: kill", dict(claim=claim(), domains=(domain(),)), plan.Kill),
    ("mine, spec gone, no domain: release, and the halt", dict(claim=claim()), plan.Release(drop_halt=True)),
    ("made anew under the same name: kill the old", dict(spec=spec(uuid=ANEW), claim=claim(), domains=(domain(),)), plan.Kill),
    ("... then release, and nothing of the new", dict(spec=spec(uuid=ANEW), claim=claim()), plan.Release()),
    ("restart asked for", dict(spec=spec(run=2), claim=claim(), domains=(domain(),)), plan.AskToStop(UUID)),
    ("... by force", dict(spec=spec(run=2, force=True), claim=claim(), domains=(domain(),)), plan.Kill),
    ("... and it stopped", dict(spec=spec(run=2), claim=claim(), domains=(domain(DEFINED, end=EndReason.SHUTDOWN),)), plan.Kill),
    ("the guest powered itself off: record it", dict(spec=spec(), claim=claim(), domains=(domain(DEFINED, end=EndReason.SHUTDOWN),)), plan.RecordHalt()),
    ("... recorded: undefine it", dict(spec=spec(), claim=claim(), halt=HALTED, domains=(domain(DEFINED, end=EndReason.SHUTDOWN),)), plan.Kill),
    ("... undefined: release", dict(spec=spec(), claim=claim(), halt=HALTED), plan.Release()),
    ("QEMU died", dict(spec=spec(), claim=claim(), domains=(domain(DEFINED, end=EndReason.CRASHED),)), plan.Kill),
    ("a pause of this epoch", dict(spec=spec(paused_epoch=EPOCH), claim=claim(), domains=(domain(),)), plan.PauseGuest(UUID)),
    ("a pause of an epoch that was lost", dict(spec=spec(paused_epoch=EPOCH - 1), claim=claim(), domains=(domain(),)), plan.Publish()),
    ("resume", dict(spec=spec(), claim=claim(), domains=(domain(PAUSED),)), plan.ResumeGuest(UUID)),
    ("paused by an I/O error", dict(spec=spec(), claim=claim(), domains=(domain(DomainState.IO_ERROR),)), plan.ResumeGuest),
    # --- this host shuts down
    ("to be given to others: asked to stop", dict(spec=spec(), claim=claim(), domains=(domain(),), host_stop=GIVE), plan.AskToStop(UUID)),
    ("... it followed, and is to stay on: cleared away", dict(spec=spec(), claim=claim(), domains=(domain(DEFINED, end=EndReason.SHUTDOWN),), host_stop=GIVE), plan.Kill),
    ("... cleared away: released", dict(spec=spec(), claim=claim(), host_stop=GIVE), plan.Release()),
    ("... it did not follow: ended", dict(spec=spec(), claim=claim(), domains=(domain(),), stop_left_s=0, host_stop=GIVE), plan.Kill),
    ("kept: asked to stop", dict(spec=spec(), claim=claim(), domains=(domain(),), host_stop=KEEP), plan.AskToStop(UUID)),
    ("... it followed, and is to stay on: cleared away", dict(spec=spec(), claim=claim(), domains=(domain(DEFINED, end=EndReason.SHUTDOWN),), host_stop=KEEP), plan.Kill),
    ("... cleared away: kept", dict(spec=spec(), claim=claim(), host_stop=KEEP), plan.Idle),
    ("... it did not follow: left to its host", dict(spec=spec(), claim=claim(), domains=(domain(),), stop_left_s=0, host_stop=KEEP), plan.Idle),
    ("... paused: left to its host", dict(spec=spec(), claim=claim(), domains=(domain(PAUSED),), host_stop=KEEP), plan.Idle),
    ("kept, but not wanted on: released", dict(spec=OFF, claim=claim(), host_stop=KEEP), plan.Release()),
    ("kept, but deleted: released", dict(claim=claim(), host_stop=KEEP), plan.Release(drop_halt=True)),
    # --- not mine
    ("another node's", dict(spec=spec(), claim=claim(node=OTHER), rank=0), plan.Idle),
    ("another node's, fenced up to before its session", dict(spec=spec(), claim=claim(OTHER, 61), owner_fence=FENCED, rank=0), plan.Idle),
    ("another node's, fenced", dict(spec=spec(), claim=claim(OTHER, 60), owner_fence=FENCED, rank=0), plan.TakeOver()),
    ("... under maintenance", dict(spec=spec(), claim=claim(OTHER, 60), owner_fence=FENCED, rank=0, paused="why"), plan.Idle("why")),
    ("... second in rank", dict(spec=spec(), claim=claim(OTHER, 60), owner_fence=FENCED, rank=1, delay_s=0.03), plan.Idle),
    ("... spec gone: taken over to be released", dict(claim=claim(OTHER, 60), owner_fence=FENCED, rank=0), plan.TakeOver()),
    ("my own fenced session's", dict(spec=spec(), claim=claim(ME, OLD), fenced_through=60, owner_fence=FENCED, rank=0), plan.TakeOver()),
    ("domain here, claim elsewhere: kill", dict(spec=spec(), claim=claim(OTHER), domains=(domain(),)), plan.Kill),
    ("domain here, no claim: kill", dict(spec=spec(), domains=(domain(),), rank=0), plan.Kill),
    ("domain here, my session fenced: kill", dict(spec=spec(), claim=claim(ME, OLD), fenced_through=60, domains=(domain(),)), plan.Kill),
    ("domain of a stale epoch: kill", dict(spec=spec(), claim=claim(), domains=(domain(epoch=EPOCH - 1),)), plan.Kill),
    ("domain of another UUID: kill", dict(spec=spec(), claim=claim(), domains=(domain(uuid=ANEW),)), plan.Kill),
    ("no session, claim still names me: the guest runs on", dict(spec=spec(), claim=claim(session=OLD), domains=(domain(),), session=0, ready=False), plan.Idle),
    ("no session, claim elsewhere: kill", dict(spec=spec(), claim=claim(OTHER), domains=(domain(),), session=0, ready=False), plan.Kill),
    ("a domain that is not ours is left alone", dict(domains=(domain(managed=False),)), plan.Idle),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_plan(facts: dict[str, Any], expected: Any) -> None:
    base = VmSnapshot(vm=VmId("default", "vm"), node=ME, session=S, ready=True)
    action = plan.plan(msgspec.structs.replace(base, **facts))
    if isinstance(expected, type):
        assert isinstance(action, expected), action
    else:
        assert action == expected


def _fence_view(**more: Any) -> plan.FenceSnapshot:
    fields: dict[str, Any] = dict(
        victim=OTHER, node=ME, session=S, ready=True, victim_alive=False, absent_for_s=1.0, grace_s=0.5,
        unfenced_claims=1, fence=None, fencer_alive=False, working=False, braked="", rank=0, waited_s=0.0,
        rank_delay_s=0.03,
    )  # fmt: skip
    return plan.FenceSnapshot(**{**fields, **more})


INTENT_OF_OTHER = seen(Fence(intent=True, intent_by="n3", intent_session=9))
INTENT_OF_MINE = seen(Fence(intent=True, intent_by=ME, intent_session=9))

FENCE_TABLE: list[tuple[str, dict[str, Any], Any]] = [
    ("absent beyond the grace: intent", {}, plan.OpenIntent()),
    ("within the grace: wait for its rest", dict(absent_for_s=0.2), plan.Idle("grace", 0.3)),
    ("alive", dict(victim_alive=True), plan.Idle),
    ("it owns no VM", dict(unfenced_claims=0), plan.Idle),
    ("the brake holds", dict(braked="2 of 3 vanished"), plan.Idle),
    ("under maintenance", dict(paused="why"), plan.Idle("why")),
    ("its host is expected back", dict(expected="why"), plan.Idle("why")),
    (
        "its fencer died, its host is expected back",
        dict(fence=INTENT_OF_OTHER, expected="why"),
        plan.TakeOverIntent(),
    ),
    (
        "its fencer died, under maintenance: gone on with",
        dict(fence=INTENT_OF_OTHER, paused="why"),
        plan.TakeOverIntent(),
    ),
    ("I am not ready", dict(ready=False), plan.Idle),
    ("I rank second: later", dict(rank=1), plan.Idle),
    ("a living fencer is at work", dict(fence=INTENT_OF_OTHER, fencer_alive=True), plan.Idle),
    ("its fencer died", dict(fence=INTENT_OF_OTHER), plan.TakeOverIntent()),
    ("... also when the victim is back", dict(fence=INTENT_OF_OTHER, victim_alive=True), plan.TakeOverIntent()),
    ("my own, from before my restart", dict(fence=INTENT_OF_MINE), plan.TakeOverIntent()),
    ("I am at it", dict(fence=INTENT_OF_MINE, working=True), plan.Idle),
    ("its record cannot be read", dict(fence=BROKEN), plan.Idle),
]


@pytest.mark.parametrize(
    ("facts", "expected"), [row[1:] for row in FENCE_TABLE], ids=[row[0] for row in FENCE_TABLE]
)
def test_plan_fence(facts: dict[str, Any], expected: Any) -> None:
    action = plan.plan_fence(_fence_view(**facts))
    if isinstance(expected, type):
        assert isinstance(action, expected), action
    elif isinstance(expected, plan.Idle):
        assert isinstance(action, plan.Idle)
        assert action.why == expected.why
        assert action.again_in_s == pytest.approx(expected.again_in_s)
    else:
        assert action == expected
