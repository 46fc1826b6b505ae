"""The baselines: a central scheduler that knows everything at once, and three kinds of crowd that know less.

Owns: honest rivals. Each gets what favours it: the crowd knows its own load exactly and free of charge, loses
no time for claims that fail; the scheduler decides in no time and is never behind.

========  ===================================================================================
central   one that decides in the order of wishes, on the true loads: best-fit, or the emptiest
everyone  whoever has room claims at once
jitter    whoever has room claims after a random time
own       whoever has room ranks itself: its own load exactly, the others' as published
========  ===================================================================================
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from bench.placement.model import Delivery, Model, Stream
from bench.placement.truth import Job, Machine, Score, Truth

KINDS = ("everyone", "jitter", "own")


def central(
    machines: Sequence[Machine], jobs: Sequence[Job], model: Model, aim: str, seed: int
) -> tuple[Score, Truth]:
    """The omniscient scheduler. A VM without room waits, and is the first to get what becomes free."""
    return _Crowd("central", machines, jobs, model, aim, seed).run()


def crowd(
    kind: str, machines: Sequence[Machine], jobs: Sequence[Job], model: Model, aim: str, seed: int
) -> tuple[Score, Truth]:
    """One of :data:`KINDS`."""
    return _Crowd(kind, machines, jobs, model, aim, seed).run()


class _Crowd:
    def __init__(
        self, kind: str, machines: Sequence[Machine], jobs: Sequence[Job], model: Model, aim: str, seed: int
    ) -> None:
        self._kind, self._jobs, self._model, self._aim = kind, jobs, model, aim
        self._stream = Stream(model, len(machines), seed)
        self._truth = Truth(machines, min((job.cpus for job in jobs), default=1))
        self._score = Score(kind)
        self._node: dict[int, int] = {}
        self._commits: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._queue: list[int] = []
        self._heap: list[tuple[float, int, str, int]] = []
        self._count = 0
        self._random = np.random.default_rng([seed, 7])
        self._ties = np.random.default_rng([seed, 8]).random(len(machines)) * 1e-9
        self._prompt = np.array([n for n in range(len(machines)) if n not in self._stream.lagging])
        self._published_at = -1.0
        self._published = np.zeros(len(machines))

    def run(self) -> tuple[Score, Truth]:
        for n, job in enumerate(self._jobs):
            if job.node >= 0:
                self._truth.change(job, job.node, 0.0, 1)
                self._node[n] = job.node
            else:
                self._push(job.created_s, "create", n)
            if job.deleted_s is not None:
                self._push(job.deleted_s, "delete", n)
        self._truth.begin()
        while self._heap:
            at, _, what, n = heapq.heappop(self._heap)
            getattr(self, f"_{what}")(at, n)
        self._score.rejected += len(self._queue)
        return self._score, self._truth

    def _push(self, at: float, what: str, n: int) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, what, n))

    def _create(self, at: float, n: int) -> None:
        self._decide(at, n, self._stream.send(at))

    def _decide(self, at: float, n: int, told: Delivery) -> None:
        job = self._jobs[n]
        fits = self._truth.room(job)
        if not fits.any():
            self._queue.append(n)
            return
        if self._kind == "central":
            node = int(np.argmax(np.where(fits, self._worth(job), -np.inf)))
            self._take(at, n, node)
            # Its watch is as late as that of any node that does not lag, and its claims cost as much.
            wait_s = float(self._random.choice(told.done[self._prompt])) - at + self._stream.claim_time()
            self._score.waits_ms.append((at + wait_s - job.created_s) * 1000)
            return
        fires = np.where(fits, self._fires(job, told, at), np.inf)
        fires[list(self._stream.deaf)] = np.inf
        if np.isinf(fires).all():
            self._queue.append(n)
            return
        commits = fires + self._stream.times(self._model.claim_min_s, self._model.claim_max_s)
        self._commits[n] = fires, commits
        self._push(float(commits.min()), "commit", n)

    def _worth(self, job: Job) -> np.ndarray:
        """How good each node is; higher is better."""
        cpu = (self._truth.room_cpus - self._truth.cpus - job.cpus) / self._truth.room_cpus
        memory = (self._truth.room_mib - self._truth.mib - job.memory_mib) / self._truth.room_mib
        return np.minimum(cpu, memory) if self._aim == "spread" else -(cpu + memory) / 2

    def _fires(self, job: Job, told: Delivery, at: float) -> np.ndarray:
        if self._kind == "everyone":
            return told.done
        if self._kind == "jitter":
            return told.done + self._stream.times(0.0, self._model.jitter_s)
        if at - self._published_at >= self._model.publish_every_s:
            self._published_at = at
            self._published_cpus, self._published_mib = self._truth.cpus.copy(), self._truth.mib.copy()
        own = self._worth(job) + self._ties
        true = self._truth.cpus, self._truth.mib
        self._truth.cpus, self._truth.mib = self._published_cpus, self._published_mib
        others = np.sort(np.where(self._truth.room(job), self._worth(job) + self._ties, -np.inf))
        self._truth.cpus, self._truth.mib = true
        better = len(others) - np.searchsorted(others, own, side="right")
        return told.done + better * self._model.rank_delay_s

    def _commit(self, at: float, n: int) -> None:
        job = self._jobs[n]
        fires, commits = self._commits[n]
        node = int(commits.argmin())
        if not self._truth.room(job)[node]:
            # It took another one meanwhile, knows that, and holds back.
            fires[node] = commits[node] = np.inf
            if np.isinf(commits).all():
                del self._commits[n]
                self._queue.append(n)
            else:
                self._push(float(commits.min()), "commit", n)
            return
        del self._commits[n]
        self._take(at, n, node)
        self._score.waits_ms.append((at - job.created_s) * 1000)
        claimed = self._stream.send(at)
        self._score.failed += int((fires < claimed.arrived).sum()) - 1

    def _take(self, at: float, n: int, node: int) -> None:
        self._truth.change(self._jobs[n], node, at, 1)
        self._node[n] = node
        self._score.placed += 1

    def _delete(self, at: float, n: int) -> None:
        node = self._node.pop(n, None)
        if node is None:
            if n in self._queue:
                self._queue.remove(n)
                self._score.rejected += 1
            else:
                self._push(at + 0.01, "delete", n)  # somebody is about to take it
            return
        self._truth.change(self._jobs[n], node, at, -1)
        told = self._stream.send(at)
        queue, self._queue = self._queue, []
        for waiting in queue:
            self._decide(at, waiting, told)
