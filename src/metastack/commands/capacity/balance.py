"""Rebalancing: which running VMs should move. And schedulers: who is at work, and what it hints.

Owns: what is printed of both. Refuses: plans of its own (:mod:`metastack.core.placement.balance`); moving.
"""

from __future__ import annotations

from msgspec import Struct

from metastack.core.model import Hint, Leader, VmId
from metastack.core.placement.balance import MOST_MOVES, Balance, BalanceMove, balance
from metastack.core.placement.objective import Objective
from metastack.core.state.cluster_state import ClusterState, seen
from metastack.core.state.keys import Kind

from ..problem import Problem, conflict, usage
from ..reading import read_engine_state
from ..request import Cluster, readable


class QualityView(Struct, kw_only=True):
    """How good all places together are; shares are 0 to 1, of vCPU or memory, whichever is used more."""

    nodes: int
    empty_nodes: int
    mean_used_share: float
    stdev_used_share: float


class MoveView(Struct, kw_only=True):
    """One VM to another node."""

    name: str
    project: str
    before: str
    after: str
    score_before: float
    score_after: float
    gain: float
    stdev_before: float
    """Of the used shares, before this move and after it."""
    stdev_after: float
    empties: str | None = None
    """Node that the move helps to empty."""


class BalanceView(Struct, kw_only=True):
    """The plan."""

    summary: str
    aim: str
    before: QualityView
    after: QualityView
    moves: list[MoveView]
    more: bool
    """More moves would gain something than were asked for."""
    stays: dict[str, int]
    """VMs that no plan moves, by the reason."""


class HintView(Struct, kw_only=True):
    """A VM and where a scheduler would put it."""

    name: str
    project: str
    node: str
    by: str


class SchedulerView(Struct, kw_only=True):
    """The scheduler that leads."""

    leader: str | None
    """Null: nobody; the nodes choose alone."""
    since: str | None = None
    term: int | None = None
    hints: list[HintView] = []


async def plan_balance(cluster: Cluster, max_moves: int, min_gain: float) -> BalanceView:
    """What would be moved now. Raises Problem for bounds out of range."""
    if not 1 <= max_moves <= MOST_MOVES:
        raise usage("--max-moves", f"{max_moves} is out of range", f"1 to {MOST_MOVES}")
    if not 0 < min_gain <= 100:
        raise usage("--min-gain", f"{min_gain:g} is out of range", "above 0, such as 0.05")
    return balance_view(await read_engine_state(cluster), max_moves, min_gain)


def balance_view(world: ClusterState, max_moves: int, min_gain: float) -> BalanceView:
    plan = balance(world, max_moves=max_moves, min_gain=min_gain)
    return BalanceView(
        summary=_summary(plan),
        aim=plan.before.aim,
        before=_quality(plan.before),
        after=_quality(plan.after),
        moves=[_move(move) for move in plan.moves],
        more=plan.bounded,
        stays=dict(sorted(plan.stays.items())),
    )


def _summary(plan: Balance) -> str:
    before, after, count = plan.before, plan.after, len(plan.moves)
    if not count:
        said = "no move gains --min-gain or more"
        return f"{said}; a larger --max-moves may find some" if plan.bounded else said
    moves = "1 move" if count == 1 else f"{count} moves"
    if before.aim == "pack":
        gain = f"{after.empty_nodes} empty nodes instead of {before.empty_nodes}"
    else:
        gain = (
            f"the used shares of {before.nodes} nodes would differ by {after.stdev_share:.3f}"
            f" instead of {before.stdev_share:.3f} (standard deviation)"
        )
    return f"{moves}: {gain}" + ("; more moves exist" if plan.bounded else "")


def _quality(found: Objective) -> QualityView:
    return QualityView(
        nodes=found.nodes,
        empty_nodes=found.empty_nodes,
        mean_used_share=found.mean_share,
        stdev_used_share=found.stdev_share,
    )


def _move(move: BalanceMove) -> MoveView:
    return MoveView(
        name=move.vm.name,
        project=move.vm.project,
        before=move.before,
        after=move.after,
        score_before=move.score_before,
        score_after=move.score_after,
        gain=move.gain,
        stdev_before=move.imbalance_before,
        stdev_after=move.imbalance_after,
        empties=move.empties or None,
    )


def not_yet() -> Problem:
    """Why the plan is not carried out."""
    return conflict(
        "balance",
        "applying a plan is not supported yet: a running VM cannot move without a stop",
        "`metastack balance --dry-run` shows the plan; `metastack vm move VM NODE --cold` stops and moves a VM",
    )


async def scheduler_view(cluster: Cluster) -> SchedulerView:
    """The scheduler that leads, and every living hint of any scheduler."""
    keys = cluster.keys
    snapshot = await cluster.store.list(keys.leader(), keys.prefix(Kind.HINT))
    view = SchedulerView(leader=None)
    for entry in snapshot.entries:
        parsed = keys.parse(entry.key)
        if parsed is None:
            continue
        if parsed.kind is Kind.LEADER:
            leader = readable(seen(Leader, entry), "scheduler")
            view.leader, view.since, view.term = leader.name, leader.since, entry.create_revision
        elif parsed.kind is Kind.HINT and (hint := seen(Hint, entry).record) is not None:
            vm: VmId = parsed.vm
            view.hints.append(HintView(name=vm.name, project=vm.project, node=hint.node, by=hint.by))
    return view
