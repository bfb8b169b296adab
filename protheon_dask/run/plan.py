"""A dry run on a person's own files: how large they are, what is loaded of them already, how long the rest takes, and what bounds it.

The database is read in read-only transactions, and nothing else is written either, but for a temporary file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from protheon_dask import words
from protheon_dask.config import Settings
from protheon_dask.errors import NotFound, ProtheonError
from protheon_dask.ledger.connect import opened, translated
from protheon_dask.ledger.migrate import check_current
from protheon_dask.ledger.past import HostRate, KnownLoad, PastRate, host_rates, known_loads, past_rates
from protheon_dask.model import Identity, RunState
from protheon_dask.pipelines.pack import options_of
from protheon_dask.pipelines.pipeline import Pipeline
from protheon_dask.policy import auto_chunk_lines
from protheon_dask.run.host_look import disk
from protheon_dask.run.machine import this_machine
from protheon_dask.run.measure import Packed, bench, pack_lines
from protheon_dask.run.parts import n_workers_here
from protheon_dask.run.speeds import Speeds, by_run, by_sample
from protheon_dask.run.trust.identity import own_name
from protheon_dask.telemetry.bound import bound_of, speedup
from protheon_dask.workspace.archives import open_archive
from protheon_dask.workspace.sampling import sample_sources
from protheon_dask.workspace.source import Estimate, estimate, identify, open_source, resolve
from protheon_dask.workspace.url import shown

LOOKERS: Final = 4
"""Sources that are looked at side by side: each reads at most 64 MiB."""
NEWEST_RUNS: Final = 10
LEAST_PAST_S: Final = 5.0
"""Seconds of work, over all workers, from which a run's rate says something: its start has gone by then."""
SAMPLE_LINES, SAMPLE_BYTES = 4_000, 16 << 20
"""Of the person's own files, where no run says how fast they load."""
SAMPLE_S: Final = 0.5
"""For each stage of it."""
READ_BYTES: Final = 16 << 20
"""Decompressed bytes by which reading a source is measured."""

State = Literal["new", "loaded", "in part", "being loaded", "same file", "unreadable"]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One source. lines and raw_bytes: of all of it, decompressed; left_*: what would still be loaded."""

    path: str
    state: State
    format: str = ""
    stored_bytes: int = 0
    raw_bytes: int = 0
    lines: int = 0
    is_exact: bool = True  # the numbers; else they are estimated from its first 4 MiB
    left_lines: int = 0
    left_raw_bytes: int = 0
    chunk_lines: int = 0
    chunks: int = 0  # that are still to be loaded
    told: str = ""  # by which run it is loaded, or why it cannot be read


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast lines would be loaded. source: by what that is known; is_least: the time is at least what comes out of it."""

    raw_bytes_per_s: float
    bound: str | None
    source: str
    is_least: bool = False
    speeds: Speeds | None = None  # how quick each host's workers were taken for; None: which hosts there are is not known


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What a load of these paths would be. Units: seconds None: nothing is left to load, or nothing says how fast it goes."""

    pipeline: str
    version: str
    files: tuple[PlannedFile, ...]
    n_workers: int
    rate: Rate | None
    workspace_bytes: int  # that chunk files would take at most
    quota_bytes: int
    free_bytes: int
    notes: tuple[str, ...] = ()
    master: str = ""  # whose workers were counted; empty: nobody was asked
    ledger: str = ""  # that the files were looked up in; empty: in none

    @property
    def left_lines(self) -> int:
        return sum(file.left_lines for file in self.files)

    @property
    def left_raw_bytes(self) -> int:
        return sum(file.left_raw_bytes for file in self.files)

    @property
    def seconds(self) -> float | None:
        return self.left_raw_bytes / self.rate.raw_bytes_per_s if self.rate and self.left_raw_bytes else None


@dataclass(frozen=True, slots=True)
class PlanWish:
    """What is to be planned.

    url None: no database is asked; no_database says why. n_workers None: as many as a load would start here.
    ledger:  which one is at url, without a secret. master: whose workers n_workers are; empty: nobody was asked.
    hosts:   workers by host, where they are known; n_workers is then their number.
    benched: what each worker of a host does, in workers of this machine; empty: nothing was measured.
    """

    pipeline: Pipeline
    paths: Sequence[str]
    settings: Settings
    url: str | None = field(default=None, repr=False)
    no_database: str = ""
    ledger: str = ""
    master: str = ""
    n_workers: int | None = None
    hosts: Mapping[str, int] = field(default_factory=dict)
    benched: Mapping[str, float] = field(default_factory=dict)
    on_step: Callable[[str], object] = field(default=lambda _: None, repr=False)


def plan(wish: PlanWish) -> LoadPlan:
    """Look at the files, and at what the ledger knows of them and of the pipeline.

    Raises:    NotFound, ConfigError, SourceUnavailable: a path. What the pipeline raises on its own lines that is not a line's fault.
    Guarantee: nothing is written to the database.
    """
    paths = resolve(wish.paths)
    n_workers = wish.n_workers or n_workers_here()
    wish.on_step(words.counted(len(paths), "file"))
    with ThreadPoolExecutor(LOOKERS) as pool:
        looked = list(pool.map(_look, paths))
    wish.on_step("the ledger")
    told = _ask_ledger(wish, [item.identity for item in looked if item.identity is not None])
    notes = list(told.notes)
    files = _planned(wish, looked, told.known, n_workers)
    left = [item for item, file in zip(looked, files, strict=True) if file.left_lines]
    rate, packed = None, None
    if left:
        if (past := told.past) is not None:
            rate = rate_of_run(past, n_workers, by_run(past.run_id, told.then, wish.hosts, wish.benched) if wish.hosts else None)
        wish.on_step("a sample of the lines")
        if lines := sample_sources([item.path for item in left], SAMPLE_LINES, SAMPLE_BYTES).lines:
            packed = pack_lines(lines)
            if rate is None:
                rate = _measured_rate(wish, left[0].path, lines, packed, n_workers, len(left))
    place = disk(wish.settings)
    left_raw_bytes = sum(file.left_raw_bytes for file in files)
    stored_bytes = 0 if packed is None else round(left_raw_bytes * len(packed.stored) / packed.raw_bytes)
    if min(stored_bytes, place.quota_bytes) > place.free_bytes:
        notes.append(f"the workspace, {place.directory}, has {words.size(place.free_bytes)} free: cutting would fill the disk")
    if rate is not None and rate.speeds is not None and rate.speeds.guessed:
        taken = f"its workers are taken for as quick as {rate.speeds.guessed_as}"
        more = "" if wish.benched else " (--bench measures hosts)"
        notes += [f"nothing says how quick {host} is: {taken}{more}" for host in rate.speeds.guessed]
    if any(file.state == "in part" for file in files):
        notes.append("of a file that is loaded in part only its other chunks are loaded")
    return LoadPlan(
        pipeline=wish.pipeline.name,
        version=wish.pipeline.version,
        files=files,
        n_workers=n_workers,
        rate=rate,
        workspace_bytes=min(stored_bytes, place.quota_bytes),
        quota_bytes=place.quota_bytes,
        free_bytes=place.free_bytes,
        notes=tuple(notes),
        master=wish.master,
        ledger=wish.ledger,
    )


@dataclass(frozen=True, slots=True)
class _Looked:
    path: str
    identity: Identity | None
    estimate: Estimate | None
    trouble: str = ""


def _look(path: str) -> _Looked:
    try:
        identity = identify(path)
        return _Looked(path, identity, estimate(path, identity.size_bytes))
    except ProtheonError as exc:
        return _Looked(path, None, None, str(exc))


@dataclass(frozen=True, slots=True)
class _Told:
    """What the ledger said. past: the latest run of the pipeline that says something; then: its hosts."""

    known: Mapping[Identity, KnownLoad] = field(default_factory=dict)
    past: PastRate | None = None
    then: Sequence[HostRate] = ()
    notes: Sequence[str] = ()


def _ask_ledger(wish: PlanWish, identities: Sequence[Identity]) -> _Told:
    if wish.url is None:
        return _Told(notes=[f"what is loaded already is not known: {wish.no_database}"] if wish.no_database else [])
    name, version = wish.pipeline.name, wish.pipeline.version
    try:
        with opened(wish.url, application="protheon-plan") as conn, translated(wish.url):
            conn.read_only = True
            with conn.transaction():
                check_current(conn)
                known = known_loads(conn, identities, name, version, options_of(wish.pipeline))
                runs = past_rates(conn, name, version, NEWEST_RUNS)
                past = next((run for run in runs if sum(run.stage_seconds.values()) >= LEAST_PAST_S), None)
                return _Told(known, past, () if past is None else host_rates(conn, past.run_id))
    except NotFound:  # Protheon never was in this database
        return _Told()
    except ProtheonError as exc:
        return _Told(notes=[f"what is loaded already is not known: {exc}"])


def _planned(wish: PlanWish, looked: Sequence[_Looked], known: Mapping[Identity, KnownLoad], n_workers: int) -> tuple[PlannedFile, ...]:
    files, seen = [], dict[Identity, str]()
    for item in looked:
        path = shown(item.path)
        if item.identity is None or item.estimate is None:
            files.append(PlannedFile(path, "unreadable", told=item.trouble))
            continue
        first = seen.setdefault(item.identity, path)
        load = known.get(item.identity)
        files.append(_planned_file(wish, path, item.identity, item.estimate, load, n_workers, first if first != path else ""))
    return tuple(files)


def _planned_file(
    wish: PlanWish, path: str, identity: Identity, found: Estimate, load: KnownLoad | None, n_workers: int, same_as: str
) -> PlannedFile:
    state, told = _state(load, same_as)
    left_lines = left_bytes = 0
    if state in ("new", "in part", "being loaded"):
        left_lines = max(0, found.n_lines - (load.lines if load else 0))
        left_bytes = max(0, found.raw_bytes - (load.raw_bytes if load else 0))
    chunk_lines = min(auto_chunk_lines(found.n_lines, n_workers), wish.settings.chunk_lines) if load is None else load.chunk_lines
    by_lines, by_bytes = -(-left_lines // chunk_lines), -(-left_bytes // wish.settings.max_chunk_bytes)
    return PlannedFile(
        path=path,
        state=state,
        format=found.format,
        stored_bytes=identity.size_bytes,
        raw_bytes=found.raw_bytes,
        lines=found.n_lines,
        is_exact=found.is_exact,
        left_lines=left_lines,
        left_raw_bytes=left_bytes,
        chunk_lines=chunk_lines,
        chunks=max(by_lines, by_bytes) if left_lines else 0,
        told=told,
    )


def _state(load: KnownLoad | None, same_as: str) -> tuple[State, str]:
    if same_as:
        return "same file", f"the same bytes as {same_as}: loaded once"
    if load is None:
        return "new", ""
    if load.is_finished:
        return "loaded", f"by run {load.run_id}: it would be skipped"
    of = "?" if load.n_chunks is None else words.count(load.n_chunks)
    done = f"{words.count(load.n_succeeded)} of {of} chunks are loaded, run {load.run_id}"
    return ("being loaded" if load.run_state in (RunState.QUEUED, RunState.RUNNING) else "in part"), done


def rate_of_run(run: PastRate, n_workers: int, speeds: Speeds | None = None) -> Rate:
    """What a run did, brought to so many workers. Pure.

    While its workers had all the work they could take, others would have added what telemetry.bound says; else nothing.
    speeds: how many of that run's workers those of now come to; None: each to one.
    """
    worked_s = sum(run.stage_seconds.values())
    utilization = min(1.0, worked_s / max(1e-9, run.seconds * run.n_workers))
    then = run.raw_bytes / max(1e-9, run.seconds)
    said = bound_of(run.stage_seconds, run.n_workers, utilization=utilization, n_ready=0, is_cutting=True)
    is_starved = said is not None and said.startswith("bound by cutting")
    wanted = float(n_workers) if speeds is None else speeds.equivalents
    factor = speedup(run.stage_seconds, run.n_workers, max(1.0, wanted)) * min(1.0, wanted)
    if is_starved and wanted >= run.n_workers:
        factor = 1.0
    source = f"run {run.run_id}: {words.rate(run.lines / max(1e-9, run.seconds))} lines/s with {words.counted(run.n_workers, 'worker')}"
    return Rate(then * factor, said, source, speeds=speeds)


def rate_of_sample(
    work_s: Mapping[str, float],
    cut_s: float,
    raw_bytes: int,
    *,
    n_workers: int,
    n_cores: int,
    n_splitters: int,
    scale: float,
    speeds: Speeds | None = None,
) -> Rate:
    """What a measured sample promises, if the database keeps up. Pure.

    work_s: of one worker of this machine by stage, cut_s: of one splitter, for raw_bytes. scale: how many such samples there are to load.
    Workers and splitters of this machine share its cores. speeds: how many workers of this machine those of now come to.
    """
    total_s = sum(work_s.values())
    wanted = float(n_workers) if speeds is None else speeds.equivalents
    workers_s = total_s / min(wanted, n_cores) if n_cores else total_s / wanted
    cut_each_s = cut_s / n_splitters
    shared_s = (total_s + cut_s) / n_cores if n_cores else 0.0
    each_s = max(1e-9, workers_s, cut_each_s, shared_s)
    utilization = 1.0 if cut_each_s <= workers_s else workers_s / cut_each_s
    seconds = {stage: value * scale for stage, value in work_s.items()}
    said = bound_of(seconds, n_workers, n_cores=n_cores or None, utilization=utilization, n_ready=0, is_cutting=True)
    return Rate(raw_bytes / each_s, said, "", is_least=True, speeds=speeds)


def _measured_rate(wish: PlanWish, path: str, lines: Sequence[bytes], packed: Packed, n_workers: int, n_files: int) -> Rate:
    """Measure the person's own lines here: reading and cutting, decompressing, transforming."""
    benched = bench(wish.pipeline, lines, None, SAMPLE_S)
    work_s = {"decompress": len(lines) / benched.decompress_lines_per_s, "transform": len(lines) / benched.transform_lines_per_s}
    cut_s = packed.pack_s + packed.raw_bytes * _read_s_per_byte(path)
    n_cores, here = this_machine().whole_cores, own_name(wish.settings)
    n_splitters = min(n_files, wish.settings.splitters or max(1, n_cores // 2))
    # of a cluster the cores are not known here, and each worker has one
    on_other_hosts = set(wish.hosts) != {here} if wish.hosts else n_workers > n_cores
    found = rate_of_sample(
        work_s,
        cut_s,
        packed.raw_bytes,
        n_workers=n_workers,
        n_cores=0 if on_other_hosts else n_cores,
        n_splitters=n_splitters,
        scale=max(1.0, 60 / max(1e-9, sum(work_s.values()))),
        speeds=by_sample(here, packed.raw_bytes / max(1e-9, sum(work_s.values())), wish.hosts, wish.benched) if wish.hosts else None,
    )
    told = f"{words.counted(len(lines), 'line')} of them, measured here; the database's part is not in it, so that it takes longer"
    return replace(found, source=told)


def _read_s_per_byte(path: str) -> float:
    """Seconds that decompressing a source takes, for each byte that comes out."""
    n_bytes, began_s = 0, time.perf_counter()
    with closing(open_source(path)) as fileobj:
        for block in open_archive(fileobj):
            n_bytes += len(block)
            if n_bytes >= READ_BYTES:
                break
    return (time.perf_counter() - began_s) / max(1, n_bytes)
