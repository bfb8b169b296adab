"""What bounds a run, and what another worker would add: one line, computed from the seconds of its stages. Pure.

**The model.** N workers go round in a cycle, each with one chunk: a closed queueing network with N customers. Three kinds of stages:

- *fetch* is a station, the master's link: workers queue there.
- *copy, merge, ledger, commit* are another, the database: likewise.
- *decompress, transform* are each worker's own CPU: nobody queues, but where there are more workers than cores on their hosts, all of
  them slow down alike. *wait* (locks, services that were away) is time that passes, whoever else is there.

The observed share s of a station in the cycle gives its mean queue, N s, and so what it would take a worker alone (Schweitzer's
approximation of mean value analysis: of the queue that an arriving worker finds, all but its own part, (N - 1) s): d = s / (1 + (N - 1) s).
With these demands the throughput is computed for N + 1 workers; and, for each kind, for N workers and a kind that is quicker by a tenth:
the kind that would help most is what bounds the run.

**What it assumes.** Chunks are alike. A database is one station: one that has cores to spare is taken for more crowded than it is, so
that "another worker adds" is a cautious number, also because a part of *copy* is the worker's own encoding. Cores are the workers'
alone. While workers have nothing to do, because cutting does not keep up, more of them add nothing, and the line says that instead.

Source: Reiser and Lavenberg, Mean-Value Analysis of Closed Multichain Queuing Networks, JACM 27 (1980); Schweitzer (1979).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from protheon_dask.model import STAGES
from protheon_dask.words import percent

LEAST_S: Final = 1.0
"""Seconds of work below which nothing is said: the start of a run, or a run of one small chunk."""
IDLE_SHARE: Final = 0.2
"""A share of the workers' time without a chunk that is worth a line of its own."""
QUICKER: Final = 0.9
"""By how much a kind of stage is made quicker in thought, to see how much that helps."""
PRECISION: Final = 1e-9
"""Of the length of a cycle, as a share of it."""

CPU, DATABASE, LINK, WAIT = "cpu", "database", "link", "wait"
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    CPU: ("decompress", "transform"),
    DATABASE: ("copy", "merge", "ledger", "commit"),
    LINK: ("fetch",),
    WAIT: ("wait",),
}
STATIONS: Final = (DATABASE, LINK)
WORDS: Final = {
    "decompress": "the workers' CPU (decompress)",
    "transform": "the workers' CPU (transform)",
    "copy": "COPY on the database",
    "merge": "merging into shared tables on the database",
    "ledger": "the ledger's statements on the database",
    "commit": "COMMIT on the database",
    "fetch": "fetching chunks from the master",
    "wait": "waiting for locks, or for services that were away",
}


@dataclass(frozen=True, slots=True)
class Bound:
    """What bounds a run: a stage of its largest kind, and how much more another worker would bring, within 0 and 1."""

    stage: str
    gain: float


@dataclass(frozen=True, slots=True)
class _Cycle:
    """Demands in shares of the cycle that was observed: what each kind would take a worker that is alone."""

    demand: Mapping[str, float]
    n_cores: int | None

    def throughput(self, n_workers: float) -> float:
        """Cycles that so many workers end, in the time of one that was observed."""
        crowd = 1.0 if self.n_cores is None else max(1.0, n_workers / self.n_cores)
        alone = self.demand[CPU] * crowd + self.demand[WAIT]
        demands = [self.demand[name] for name in STATIONS]
        # Of a cycle of length c a station takes r = d (1 + (n - 1) r / c), so r = d / (1 - (n - 1) d / c): with these, and what passes
        # alone, the cycle is as long as c itself for one c. Halving finds it between nobody queueing and everybody, everywhere.
        low = max(alone + sum(demands), (n_workers - 1) * max(demands))
        high = alone + n_workers * sum(demands)
        while high - low > PRECISION * high:
            cycle = (low + high) / 2
            is_longer = any((n_workers - 1) * d >= cycle for d in demands)
            if is_longer or alone + sum(d / (1 - (n_workers - 1) * d / cycle) for d in demands) > cycle:
                low = cycle
            else:
                high = cycle
        cycle = (low + high) / 2
        return n_workers / cycle


def find_bound(stage_seconds: Mapping[str, float], n_workers: int, n_cores: int | None = None) -> Bound | None:
    """What bounds workers that have all the work they can take; None: too little was done to say it.

    stage_seconds: over all workers, by model.STAGES. n_cores: of all hosts that have workers; None: more than there are workers.
    """
    observed = _observed(stage_seconds, n_workers, n_cores)
    if observed is None:
        return None
    cycle, seconds, share = observed
    now = cycle.throughput(n_workers)

    def helps(kind: str) -> float:
        quicker = replace(cycle, demand={**cycle.demand, kind: cycle.demand[kind] * QUICKER})
        return quicker.throughput(n_workers)

    kind = max(KINDS, key=lambda kind: (round(helps(kind) / now, 6), share[kind]))
    stage = max(KINDS[kind], key=seconds.__getitem__)
    return Bound(stage, min(1.0, max(0.0, cycle.throughput(n_workers + 1) / now - 1)))


def _observed(
    stage_seconds: Mapping[str, float], n_workers: int, n_cores: int | None
) -> tuple[_Cycle, Mapping[str, float], Mapping[str, float]] | None:
    """The cycle, its seconds by stage, and the share of each kind; None: too little was done to say anything."""
    seconds = {stage: max(0.0, stage_seconds.get(stage, 0.0)) for stage in STAGES}
    total_s = sum(seconds.values())
    if n_workers < 1 or total_s < LEAST_S:
        return None
    share = {kind: sum(seconds[stage] for stage in stages) / total_s for kind, stages in KINDS.items()}
    crowd = 1.0 if n_cores is None else max(1.0, n_workers / n_cores)
    alone = {CPU: share[CPU] / crowd, WAIT: share[WAIT]}
    demand = {**alone, **{name: share[name] / (1 + (n_workers - 1) * share[name]) for name in STATIONS}}
    return _Cycle(demand, n_cores), seconds, share


def speedup(stage_seconds: Mapping[str, float], n_workers: int, wanted: float, n_cores: int | None = None) -> float:
    """How many times as much so many wanted workers would do, by what n_workers did; 1.0 where that says too little.

    As find_bound() has it; cores as the wanted workers find them. Not whole: of workers that are quicker, or slower, than those were.
    """
    found = _observed(stage_seconds, n_workers, n_cores)
    return 1.0 if found is None or wanted < 1 else found[0].throughput(wanted) / found[0].throughput(n_workers)


def bound_of(
    stage_seconds: Mapping[str, float],
    n_workers: int,
    *,
    n_cores: int | None = None,
    utilization: float | None = None,
    n_ready: int | None = None,
    is_cutting: bool = False,
) -> str | None:
    """What bounds the work, in words; None: nothing can be said, or there is nothing to do.

    stage_seconds: of the last seconds, or of a whole run, over all workers, by model.STAGES.
    n_workers:     that were there. n_cores: of their hosts, where that is known.
    utilization:   mean share of the time in which a worker had a chunk, within 0 and 1; None: not known, taken for 1.
    n_ready:       chunks that are cut and wait for a worker; None: not known. is_cutting: there is more to cut.
    """
    found = find_bound(stage_seconds, n_workers, n_cores)
    if found is None:
        return None
    idle = 0.0 if utilization is None else min(1.0, max(0.0, 1.0 - utilization))
    if idle >= IDLE_SHARE and (n_ready is None or n_ready < n_workers):
        if is_cutting:
            return f"bound by cutting: workers wait {percent(idle)} of the time"
        return f"bound by what there is to do: workers wait {percent(idle)} of the time"
    if idle >= IDLE_SHARE:
        return f"bound by handing out: {n_ready:,} chunks are ready, and workers wait {percent(idle)} of the time"
    return f"bound by {WORDS[found.stage]}; another worker adds {round(found.gain * 100)} %"
