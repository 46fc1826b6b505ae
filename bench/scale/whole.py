"""Placement on a real etcd: claims a second, watch traffic, and what following costs an agent (minutes).

Owns: which trials there are, and the limits. Refuses: measuring (the modules beside it do):

======== =========================================================================================
stage    one etcd, its proxy, processes, all by pid
worker   a process: agents on twins of hypervisor and storage, bare streams, raw writers
load     records, each made from its number
claims   agents against raw writers
watch    streams in hundreds, direct and through the proxy
wire     a stream that is read off the socket
cost     CPU of one agent that follows
plots    docs/lab/plots/scale-*.svg
======== =========================================================================================

Rule: a trial that is through is kept, with its commit, until the bench is: one that was interrupted goes on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from bench.harness import RESULTS, TOP, Result, Row, commit, say
from bench.scale import claims, cost, plots, watch
from bench.scale.claims import Trial
from bench.scale.stage import about
from metastack.core.state.keys import DEFAULT_ROOT

VMS = 10_000
EVERYTHING = (f"{DEFAULT_ROOT}/",)
AGENTS = {8: (2000, 400), 200: (1600, 300)}
"""Agents, and VMs of a trial: in transactions of 16, and one by one."""
LIMITS = {8: (0.25, 0.5), 200: (0.1, 0.2)}
"""Least share of the raw rate: one by one, together."""
APART_LIMIT = 0.5
STREAMS = (50, 100, 200, 400)
FOLLOWED = (200, 2048)
"""Nodes of the cluster that an agent follows."""
SETTINGS: dict[int, dict[str, object]] = {
    # Here four or a hundred agents share a core with others: the second in rank must not wonder while the first
    # has no turn on it. Nobody is deaf, so nobody gains by a long delay either.
    8: {"rank_delay_ms": 3000},
    200: {"rank_delay_ms": 5000},
}

PACK: dict[str, object] = {"weight_pack": 1.0, "weight_spread": 0.0}
"""A burst goes to the node that is fullest, and not one VM to each."""


def run(runs: int | None = None) -> Result:
    """``runs``: percent of the usual VMs and messages, for a try; default 100."""
    return asyncio.run(_run((runs or 100) / 100))


def claims_of(count: int, runs: int | None) -> Result:
    """Only the claims a second of so many agents, beside their baseline."""
    return asyncio.run(_only(count, (runs or 100) / 100))


async def _only(count: int, share: float) -> Result:
    kept, rows = Kept(f"claims{count}"), list[Row]()
    document: dict[str, Any] = {"stage": about(), "claims": {}}
    await _claims(kept, share, count, rows, document)
    kept.done()
    return Result(rows=rows, raw=document, document=document)


def followers(runs: int | None) -> Result:
    """Only what following costs an agent."""
    return asyncio.run(_followers((runs or 100) / 100))


async def _followers(share: float) -> Result:
    kept, rows = Kept("follower"), list[Row]()
    document: dict[str, Any] = {"stage": about(), "cpu": {}}
    for nodes in FOLLOWED:
        document["cpu"][str(nodes)] = await _cpu(kept, share, nodes, rows)
    kept.done()
    return Result(rows=rows, raw=document, document=document)


class Kept:
    """Trials that are through."""

    def __init__(self, bench: str) -> None:
        self._path = RESULTS / f"{bench}-unfinished.json"
        self.found: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}

    async def get(
        self, name: str, share: float, trial: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Its figures, from now or from before."""
        key = name if share == 1 else f"{name} at {share:g}"
        if key not in self.found:
            say(f"  {key}")
            began = datetime.now(UTC)
            figures = await trial()
            self.found[key] = {"commit": commit(), "date": f"{began:%Y-%m-%dT%H:%M:%SZ}", **figures}
            self._path.write_text(json.dumps(self.found))
        return self.found[key]  # type: ignore[no-any-return]

    def done(self) -> None:
        self._path.unlink(missing_ok=True)


async def _run(share: float) -> Result:
    kept, rows = Kept("scale"), list[Row]()
    document: dict[str, Any] = {"stage": about(), "claims": {}, "watch": [], "cpu": {}}

    async def follower(nodes: int) -> None:
        document["cpu"][str(nodes)] = await _cpu(kept, share, nodes, rows)

    await follower(200)
    await _claims(kept, share, 8, rows, document)
    for streams in STREAMS:
        for proxied in (False, True):
            document["watch"].append(await _traffic(kept, share, streams, proxied, False, rows))
    document["watch"].append(await _traffic(kept, share, 200, False, True, rows))
    await _claims(kept, share, 200, rows, document)
    await follower(2048)
    plots.draw(TOP / "docs" / "lab" / "plots", document)
    kept.done()
    return Result(rows=rows, raw=document, document=document)


def _row(name: str, unit: str, n: int, value: float, *, base: float | None = None) -> Row:
    return Row(name=name, unit=unit, n=n, p50=value, p95=value, baseline_p50=base, baseline_p95=base)


async def _claims(kept: Kept, share: float, count: int, rows: list[Row], document: dict[str, Any]) -> None:
    together, alone = (max(64, int(n * share)) for n in AGENTS[count])
    before = int((VMS - together) * share)
    raw: dict[str, dict[str, Any]] = {}

    def bare(vms: int, batch: int) -> Callable[[], Awaitable[dict[str, Any]]]:
        return lambda: claims.raw(count, before, vms, batch, EVERYTHING)

    for name, vms, batch in (("one by one", alone, 1), ("together", together, 16)):
        raw[name] = await kept.get(f"raw, {count} streams, {name}", share, bare(vms, batch))
    # Of 200 agents on two cores each hears of 800 wishes later than the longest delay of a rank allows for.
    wide = 16 * count if count < 50 else 32
    trials = (
        Trial(name="one by one", vms=alone, most=1, window=8 * count if count < 50 else wide),
        Trial(name="together", vms=together, most=16, window=wide),
        Trial(name="together, apart by node", vms=together, most=16, window=wide, apart="node"),
        Trial(name="together, apart by rack", vms=together, most=16, window=wide, apart="rack"),
    )
    ours = await kept.get(
        f"{count} agents", share, lambda: claims.agents(count, before, trials, **SETTINGS[count])
    )
    # With others' settings from the start: a change of them has each agent count all VMs anew.
    packed = Trial(name="together, packed", vms=together, most=16, window=wide)
    packing = await kept.get(
        f"{count} agents that pack",
        share,
        lambda: claims.agents(count, before, (packed,), **SETTINGS[count], **PACK),
    )
    ours = {packed.name: packing[packed.name]} | ours
    document["claims"][str(count)] = {"raw": raw, "agents": ours}
    rates = {name: raw[name]["claims_per_s"] for name in raw}
    for name in ("one by one", "together", packed.name):
        rate, vms = ours[name]["claims_per_s"], ours[name]["vms"]
        least = LIMITS[count][name != "one by one"]
        rows.append(_least(f"{count} agents, {name}: claims", vms, rate, rates["one by one"], least))
        if name != "one by one":
            what = f"{count} agents, {name}: claims, against raw ones together"
            rows.append(_least(what, vms, rate, rates["together"], least))
    for topology in ("node", "rack"):
        one = ours[f"together, apart by {topology}"]
        base = ours["together"]["claims_per_s"]
        rows.append(
            _least(
                f"{count} agents, apart by {topology}: claims",
                one["vms"],
                one["claims_per_s"],
                base,
                APART_LIMIT,
            )
        )


def _least(name: str, n: int, rate: float, base: float, least: float) -> Row:
    """A rate that has to reach a share of its baseline; the limit in the row is the lowest that will do."""
    return Row(
        name=name, unit="1/s", n=n, p50=rate, p95=rate, baseline_p50=base, baseline_p95=base,
        limit=round(base * least, 1), ok=rate >= base * least,
    )  # fmt: skip


async def _traffic(
    kept: Kept, share: float, streams: int, proxied: bool, narrow: bool, rows: list[Row]
) -> dict[str, Any]:
    name = f"{streams} streams{', proxied' if proxied else ''}{', narrow' if narrow else ''}"
    writes = max(50, int(250 * share))
    one = await kept.get(
        name, share, lambda: watch.traffic(streams, int(1000 * share), writes, proxied=proxied, narrow=narrow)
    )
    paced, burst = one["paced"], one["burst"]
    rows.append(
        _row(f"{name}: delay p99 at {watch.PER_S:g} writes/s", "ms", paced["samples"], paced["delay_p99_ms"])
    )
    rows.append(_row(f"{name}: etcd CPU", "us/message", burst["messages"], burst["etcd_us_a_message"]))
    if proxied:
        rows.append(_row(f"{name}: proxy CPU", "us/message", burst["messages"], burst["proxy_us_a_message"]))
    rows.append(_row(f"{name}: as fast as it goes", "messages/s", burst["messages"], burst["messages_per_s"]))
    return one


async def _cpu(kept: Kept, share: float, nodes: int, rows: list[Row]) -> dict[str, Any]:
    vms, paced = max(100, int(1000 * share)), max(20, int(100 * share))
    one = await kept.get(
        f"follower, {nodes} nodes", share, lambda: cost.follow(nodes, int(VMS * share), vms, paced)
    )
    for when, found in (("in bursts of 25", one), (f"{cost.BEHIND} at once", one["behind"])):
        for kind in ("wish", "claim", "status"):
            name, of = f"agent CPU, {nodes} nodes, {kind}, {when}, gRPC included", found[kind]
            rows.append(_row(name, "us", of["messages"], of["cpu_us"], base=of["bare_cpu_us"]))
    return one
