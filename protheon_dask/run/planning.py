"""What ``protheon plan`` plans for: which database is asked, and how many workers there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Effective
from protheon_dask.errors import ConfigError, ProtheonError
from protheon_dask.ledger.connect import place_of
from protheon_dask.run.addresses import master_address
from protheon_dask.run.api import opened, running_master
from protheon_dask.run.attaching import ledger_url
from protheon_dask.run.enrolling import enrol
from protheon_dask.run.local import Database
from protheon_dask.run.plan import PlanWish
from protheon_dask.run.reaching import Reach, check_database
from protheon_dask.run.submitting import pipeline_of, places_of
from protheon_dask.run.trust.identity import own_name, tls_of


@contextmanager
def wish_for(
    effective: Effective,
    database: Database,
    paths: Sequence[str],
    pipeline: str,
    *,
    table: str | None = None,
    master: str | None = None,
    workers: int | None = None,
    is_given: bool = False,
    wants_bench: bool = False,
    on_step: Callable[[str], object] = lambda _: None,
) -> Iterator[PlanWish]:
    """What is to be planned, with a database that answers for the time of the block, if there is one.

    An embedded database that was never made is not made for this.
    master: whose workers are counted, and whose ledger is asked; None: the local one's, if it runs. is_given: a person named the database
    for this; one that a setting names must be that master's too, the embedded one is left aside if it is not.
    wants_bench: each host of it works on the built-in sample for some seconds, and one process of this machine.
    Raises: NotFound, ConfigError: the pipeline, a path, or the address; there is no master to bench the hosts of.
            BrokerUnavailable: the master that is named does not answer.
    """
    places = places_of(paths)
    wish = PlanWish(pipeline_of(pipeline, table=table, paths=places), places, effective.settings, n_workers=workers, on_step=on_step)
    asked: tuple[str, TlsFiles | None] | None = None if master is None else (master_address(master), tls_of(effective.settings))
    with ExitStack() as stack:
        if asked is not None:
            wish = _of_master(wish, *asked, database, is_given=is_given or not database.embedded, counts=workers is None)
        elif database.embedded_dir is None or database.embedded_dir.exists():
            try:
                wish = replace(wish, url=stack.enter_context(opened(effective, database)), ledger=_whose(database))
                if (workers is None or wants_bench) and (local := running_master(effective, wish.url or "")) is not None:
                    asked = local.address, local.tls
                    local.close()
                    if workers is None:
                        with BrokerClient(*asked) as broker:
                            wish = _with_hosts(wish, broker, broker.info().n_threads)
            except ProtheonError as exc:
                wish = replace(wish, no_database=str(exc))
        if wants_bench:
            if asked is None or workers is not None:
                raise ConfigError("--bench measures the hosts of a cluster: name one by --master, and leave --workers out")
            wish = replace(wish, benched=_benched(wish, *asked))
        yield wish


def _of_master(wish: PlanWish, address: str, tls: TlsFiles | None, database: Database, *, is_given: bool, counts: bool) -> PlanWish:
    """Its workers, if they count, and its ledger: by the database that is_given, else by the URL that it gives to hosts of its cluster.

    Raises BrokerUnavailable. A ledger that is not to be had from here is none of them: the plan says why.
    """
    with BrokerClient(address, tls) as broker:
        info = broker.info()
        wish = _with_hosts(wish, broker, info.n_threads) if counts else wish
        try:
            url = ledger_url(wish.settings, database, info.ledger_id, is_given=is_given)
            if url is None:
                at = Reach(address, own_name(wish.settings), tls)
                enrolled = enrol(wish.settings, broker, at.host)
                check_database(enrolled, broker, at)
                url = enrolled.settings.database_url
        except ProtheonError as exc:
            return replace(wish, no_database=str(exc))
    return replace(wish, url=url, ledger=f"the ledger of the master at {address}, {place_of(url)}")


def _whose(database: Database) -> str:
    """Which ledger that is, for a person."""
    return database.origin if database.embedded else f"{place_of(database.url)} (from {database.origin})"


def _with_hosts(wish: PlanWish, broker: BrokerClient, n_threads: int) -> PlanWish:
    """The workers that this master gives work to, of so many threads in all. Raises BrokerUnavailable."""
    listed = broker.hosts().hosts
    # of somebody else's workers each thread is one of ours
    threads_each = max(1.0, n_threads / max(1, sum(host.n_workers for host in listed)))
    hosts = {host.name: round(host.n_workers * threads_each) for host in listed if host.n_workers and not host.aside}
    return replace(wish, hosts=hosts, n_workers=sum(hosts.values()) or n_threads or None, master=broker.address)


def _benched(wish: PlanWish, address: str, tls: TlsFiles | None) -> dict[str, float]:
    """What each worker of a host does with the built-in sample, in processes of this machine: of the CPU's part alone."""
    from protheon_dask.run.gathering import Asked, gather
    from protheon_dask.run.measure import bench_sample

    found = gather(Asked(wish.settings, None, address, tls, wants_bench=True, on_step=wish.on_step))
    wish.on_step("the sample, on this machine")
    here = bench_sample(None).cpu_lines_per_s
    return {host.host: host.benched.cpu_lines_per_s / host.benched.n_processes / here for host in found.hosts if host.benched is not None}
