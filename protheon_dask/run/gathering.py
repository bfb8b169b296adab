"""Gathers what ``protheon doctor`` judges: of this machine and its database, of the master, and of each worker through Dask's scheduler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

from distributed import Client

from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.cluster_wire import HostView, Versions
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Settings
from protheon_dask.errors import ProtheonError
from protheon_dask.ledger.connect import place_of
from protheon_dask.ledger.fitness import ServerFacts, ServerWay
from protheon_dask.run import host_look
from protheon_dask.run.host_look import bench_here, database_way, disk, master_way, vitals
from protheon_dask.run.local import Database
from protheon_dask.run.trust.identity import dask_security
from protheon_dask.run.vitals import Benched, Disk, Gathered, HostTold, HostVitals, MasterWay
from protheon_dask.words import counted

CONNECT_S: Final = 10.0
LOOK_S: Final = 30.0
"""A worker that has said nothing of itself by then is silent; it may be at a long statement of Python's, which keeps its loop waiting."""
WAYS_S: Final = 90.0
"""With the ways to master and database, over a slow link."""
BENCH_S: Final = 1.0
"""For each stage of the sample."""

TOLD_ALONE: Final = ("master_trouble", "database_trouble", "bench_trouble", "joining", "joining_trouble", "peers")
"""What a look adds to a host's vitals in simple values."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asks about. url: of the database, None: none is named here, and the workers' is asked about.

    master: ``host:port``; empty: none runs, or none was named. wants_bench: each host works on the sample for some seconds.
    """

    settings: Settings
    url: str | None = field(repr=False)
    master: str = ""
    tls: TlsFiles | None = None
    database: Database | None = None
    wants_bench: bool = False
    on_step: Callable[[str], object] = field(default=lambda _: None, repr=False)


def gather(asked: Asked) -> Gathered:
    """Look at everything that can be reached; what cannot be is a trouble in the answer. Raises nothing of it."""
    asked.on_step("this machine")
    here = vitals(asked.settings)
    if asked.url is not None:
        asked.on_step("the database")
        here = _with(here, database_way(asked.url))
    embedded = asked.database.embedded_dir if asked.database is not None else None
    found = Gathered(
        here=here,
        database=str(place_of(asked.url)) if asked.url is not None else "",
        disk=disk(asked.settings, embedded),
        now_s=time.time(),
    )
    if asked.master:
        asked.on_step(f"the master at {asked.master}")
        found = _through_master(asked, replace(found, master=asked.master))
    if asked.wants_bench and not any(host.benched for host in found.hosts):
        asked.on_step("the sample, on this machine")
        found = replace(found, here=_with(found.here, bench_here(asked.url, BENCH_S)))
    return found


def _through_master(asked: Asked, found: Gathered) -> Gathered:
    with BrokerClient(asked.master, asked.tls) as broker:
        here = _with(found.here, master_way(broker))
        found = replace(found, here=here, master_trouble=here.master_trouble)
        if here.master_trouble:
            return found
        try:
            listed, info = broker.hosts(), broker.info()
        except ProtheonError as exc:
            return replace(found, master_trouble=str(exc))
    found = replace(
        found,
        master_version=listed.version,
        master_versions=listed.versions,
        told=tuple(_told(host) for host in listed.hosts if not host.is_removed),
    )
    address = info.scheduler_address
    try:
        security: dict[str, Any] = {} if asked.tls is None else {"security": dask_security(asked.tls)}
        with Client(address, timeout=CONNECT_S, name=host_look.APPLICATION, set_as_default=False, **security) as client:  # type: ignore[no-untyped-call]  # distributed is not typed here
            return _through_scheduler(asked, found, client)
    except (OSError, ValueError) as exc:  # ValueError: a certificate that Dask cannot use
        return replace(found, scheduler_trouble=f"{address} does not answer: {exc or type(exc).__name__}")


def _told(host: HostView) -> HostTold:
    try:
        until_s = datetime.fromisoformat(host.certificate_until).timestamp() if host.certificate_until else None
    except ValueError:  # another version's
        until_s = None
    return HostTold(host.name, host.aside, until_s, host.n_workers)


# --- by way of Dask's scheduler -----------------------------------------------------------------------------------------


def _through_scheduler(asked: Asked, found: Gathered, client: Client) -> Gathered:
    found = _of_scheduler(found, client)
    identity = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=LOOK_S)  # type: ignore[no-untyped-call, union-attr]  # as above; it is connected
    told: Mapping[str, Any] = identity["workers"]
    names = {address: str(worker["name"]) for address, worker in told.items()}
    asked.on_step(counted(len(names), "worker"))
    answers = _ask(client, list(names), LOOK_S, ways=False, bench_s=0.0)
    silent = {names[address]: str(answer) for address, answer in answers.items() if isinstance(answer, str)}
    by_host: dict[str, list[str]] = {}
    for address, answer in answers.items():
        if not isinstance(answer, str):
            by_host.setdefault(str(answer["host"]), []).append(address)
    hosts = []
    for host, addresses in sorted(by_host.items()):  # one after the other: links and database are shared
        asked.on_step(f"host {host}: the ways to master, database and the other hosts")
        peers = {other: places[0] for other, places in by_host.items() if other != host}
        first = _ask(client, addresses[:1], WAYS_S, ways=True, bench_s=0.0, peers=peers)[addresses[0]]
        light = answers[addresses[0]]
        assert not isinstance(light, str), "those that did not answer are in no host"
        known = _vitals_of(light if isinstance(first, str) else first, len(addresses))
        if isinstance(first, str):
            silent[names[addresses[0]]] = first
            known = replace(known, n_workers=len(addresses) - 1)
        if asked.wants_bench:
            asked.on_step(f"host {host}: the sample, in {counted(len(addresses), 'process', 'processes')}")
            known = _benched(known, _ask(client, addresses, WAYS_S, ways=False, bench_s=BENCH_S))
        hosts.append(known)
    return replace(found, hosts=tuple(hosts), silent=silent)


def _of_scheduler(found: Gathered, client: Client) -> Gathered:
    """The master's own host, as the scheduler's process sees it."""
    try:
        told = client.sync(client._run_on_scheduler, host_look.look_from_scheduler, callback_timeout=LOOK_S)  # type: ignore[no-untyped-call]  # as above
        return replace(found, scheduler=_vitals_of(told["vitals"], 0), disk=Disk(**told["disk"]), disk_trouble="")
    except Exception as exc:  # noqa: BLE001  # somebody else's scheduler, without Protheon or of another version: whatever it raises
        return replace(found, disk=None, disk_trouble=f"the scheduler's process cannot look at its host: {_words(exc)}")


def _ask(
    client: Client,
    addresses: Sequence[str],
    timeout_s: float,
    *,
    ways: bool,
    bench_s: float,
    peers: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any] | str]:
    """Have these workers look, all at once; the answer of one that cannot, or not in time, is why."""
    run = partial(client._run, host_look.look, {"ways": ways, "bench_s": bench_s, "peers": dict(peers or {})}, on_error="raise")

    async def one(address: str) -> dict[str, Any] | str:
        try:
            answer = await asyncio.wait_for(run(workers=[address]), timeout_s)
            return dict(answer[address])
        except TimeoutError:
            return f"it has not answered the scheduler for {timeout_s:g} s"
        except Exception as exc:  # noqa: BLE001  # whatever its process, or Dask on the way to it, raised
            return _words(exc)

    async def each() -> list[dict[str, Any] | str]:
        return list(await asyncio.gather(*map(one, addresses)))

    answers = client.sync(each)  # type: ignore[no-untyped-call]  # as above
    return dict(zip(addresses, answers, strict=True))


def _words(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__


def _vitals_of(told: Mapping[str, Any], n_workers: int) -> HostVitals:
    """A host's answer as a value; what another version adds is left aside."""
    known = _of(HostVitals, {**told, "n_workers": n_workers, "versions": Versions(**told["versions"])})
    return _with(known, told)


def _with(known: HostVitals, told: Mapping[str, Any]) -> HostVitals:
    """These vitals with the ways and the bench that were told of."""
    kinds: dict[str, type[Any]] = {"to_master": MasterWay, "to_database": ServerWay, "server": ServerFacts, "benched": Benched}
    made = {name: _of(kind, told[name]) for name, kind in kinds.items() if told.get(name) is not None}
    words = {name: told[name] for name in TOLD_ALONE if name in told}
    return replace(known, **made, **words)


def _of(kind: type[T], told: Mapping[str, Any]) -> T:
    names = {item.name for item in fields(kind)}  # type: ignore[arg-type]  # each is a dataclass
    return kind(**{name: value for name, value in told.items() if name in names})


def _benched(known: HostVitals, answers: Mapping[str, dict[str, Any] | str]) -> HostVitals:
    """The sum of what a host's processes did at the same time."""
    total: Benched | None = None
    for answer in answers.values():
        if isinstance(answer, str):
            return replace(known, bench_trouble=answer)
        one = _vitals_of(answer, 0)
        if one.benched is None:
            return replace(known, bench_trouble=one.bench_trouble or "it was not measured")
        total = one.benched if total is None else total.plus(one.benched)
    return replace(known, benched=total)
