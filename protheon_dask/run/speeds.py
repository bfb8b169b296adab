"""How quick the workers of unequal hosts are, for ``protheon plan``: by what they did in a run, by a bench, or taken for alike. Pure.

Speeds are of one worker process while it works, in any unit that is the same for all hosts: what counts is how they compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from protheon_dask.ledger.past import HostRate


@dataclass(frozen=True, slots=True)
class PlannedHost:
    """A host whose workers would load. raw_bytes_per_s: of each of them; known_by: a run, the bench, or what was taken for granted."""

    host: str
    n_workers: int
    raw_bytes_per_s: float
    known_by: str


@dataclass(frozen=True, slots=True)
class Speeds:
    """hosts: those of now. equivalents: how many workers of the reference they come to.

    guessed: hosts of which nothing is known; guessed_as: what each of their workers was taken for.
    """

    hosts: tuple[PlannedHost, ...]
    equivalents: float
    guessed: tuple[str, ...] = ()
    guessed_as: str = ""


def by_run(run_id: int, then: Sequence[HostRate], now: Mapping[str, int], benched: Mapping[str, float]) -> Speeds:
    """The workers of now, in mean workers of a run. now: how many there are, by host.

    benched: of each worker, in any unit, by host; empty: nothing was measured. It tells of a host that had no part in the run, where
    another one has both.
    """
    known = {rate.host: rate.raw_bytes / rate.busy_s for rate in then if rate.busy_s > 0}
    n_then = sum(rate.n_workers for rate in then if rate.host in known)
    middle = sum(rate.n_workers * known[rate.host] for rate in then if rate.host in known) / n_then if n_then else 0.0
    if not middle:
        return Speeds((), float(sum(now.values())))
    both = [known[host] / benched[host] for host in known if benched.get(host)]
    measured = {host: speed * mean(both) for host, speed in benched.items()} if both else {}
    return _speeds(now, {f"run {run_id}": known, "bench": measured}, f"the mean of run {run_id}", middle)


def by_sample(here: str, here_bytes_per_s: float, now: Mapping[str, int], benched: Mapping[str, float]) -> Speeds:
    """The workers of now, in workers of this machine, one of which did so much of a sample. benched: in workers of this machine."""
    measured = {host: speed * here_bytes_per_s for host, speed in benched.items()}
    return _speeds(now, {"bench": measured, "the sample": {here: here_bytes_per_s}}, "this machine", here_bytes_per_s)


def _speeds(now: Mapping[str, int], known: Mapping[str, Mapping[str, float]], reference: str, reference_bytes_per_s: float) -> Speeds:
    hosts, guessed = [], []
    for host, n_workers in sorted(now.items()):
        by, speed = next(((by, speeds[host]) for by, speeds in known.items() if host in speeds), (reference, reference_bytes_per_s))
        hosts.append(PlannedHost(host, n_workers, speed, by))
        if by == reference:
            guessed.append(host)
    total = sum(host.n_workers * host.raw_bytes_per_s for host in hosts)
    return Speeds(tuple(hosts), total / reference_bytes_per_s, tuple(guessed), reference if guessed else "")
