"""Reports of steps that are refused again and again: told until they are heard, and taken back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent_rig import KEYS, Lab, lab_of, vm
from msgspec.structs import replace

from metastack.core.model import Phase, VmSpec, VmStatus
from metastack.core.plan import VmSnapshot
from metastack.core.state.codec import decode, encode
from metastack.lab.sim.engine.loop import run
from metastack.ports import Refused, Unavailable

TOLD = "again and again"


def _status(lab: Lab) -> VmStatus:
    """What is told of it; while nothing is, something else."""
    raw = lab.entry(KEYS.vm_status(vm("a")))
    if raw is None:
        return VmStatus(uuid="", phase=Phase.PENDING, node="", session=0, epoch=0)
    return decode(VmStatus, raw)


def _message(lab: Lab) -> str:
    return _status(lab).message


async def _runs(lab: Lab) -> VmSpec:
    spec = await lab.want("a")
    await lab.until("it runs", lambda: _status(lab).phase is Phase.RUNNING)
    return spec


async def _pause(lab: Lab, spec: VmSpec, fail: Callable[[str, str], Exception | None]) -> None:
    """Ask for a pause, which libvirt refuses."""
    lab.hosts["n1"].hypervisor.fail = fail
    claim = lab.cluster.get(KEYS.claim(spec.id))
    assert claim is not None
    await lab.put(KEYS.vm_spec(spec.id), encode(replace(spec, paused_epoch=claim.mod_revision)))


def _refused(what: str, _uuid: str) -> Exception | None:
    return Refused("not now") if what == "pause" else None


def test_a_report_is_withdrawn_after_a_lost_session(tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            await _pause(lab, await _runs(lab), _refused)
            await lab.until("it is told", lambda: TOLD in _message(lab), 20)
            entry = lab.cluster.get(KEYS.node_alive("n1"))
            assert entry is not None
            agent = lab.hosts["n1"].agent
            assert agent is not None
            lab.cluster.revoke(entry.lease)
            # A look without a session has nothing to do, which is no success of that step.
            await lab.until("it looks", lambda: not agent._stuck_steps._times)
            lab.hosts["n1"].hypervisor.fail = lambda _what, _uuid: None
            await lab.until("it is paused", lambda: _status(lab).phase is Phase.PAUSED, 20)
            assert TOLD not in _status(lab).message

    run(play())


def test_a_report_that_was_not_heard_is_made_once_more(tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            spec, agent = await _runs(lab), lab.hosts["n1"].agent
            assert agent is not None
            publish, lost = agent._reconciler._publish, list[str]()

            async def away_once(view: VmSnapshot) -> None:
                if TOLD in agent.node.memory.of(view.vm).refused and not lost:
                    lost.append("etcd is away for a moment")
                    raise Unavailable(lost[0])
                await publish(view)

            agent._reconciler._publish = away_once  # type: ignore[method-assign]
            await _pause(lab, spec, _refused)
            await lab.until("it is told", lambda: TOLD in _message(lab), 60)
            assert lost

    run(play())
