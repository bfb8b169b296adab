"""What ``protheon plan`` plans for: which database is asked, and how many workers there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from protheon_dask.config import Effective
from protheon_dask.errors import ProtheonError
from protheon_dask.run.addresses import master_address
from protheon_dask.run.api import opened, running_master
from protheon_dask.run.identity import tls_of
from protheon_dask.run.local import Database
from protheon_dask.run.master import Master
from protheon_dask.run.plan import PlanWish
from protheon_dask.run.submitting import pipeline_of, places_of


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
) -> Iterator[PlanWish]:
    """What is to be planned, with a database that answers for the time of the block, if there is one.

    An embedded database that was never made is not made for this. master: whose workers are counted; None: the local one's, if it runs.
    Raises: NotFound, ConfigError: the pipeline, a path, or the address. BrokerUnavailable: the master that is named does not answer.
    """
    places = places_of(paths)
    chosen = pipeline_of(pipeline, table=table, paths=places)
    url, why, n_workers = None, "", workers
    with ExitStack() as stack:
        if master is not None and workers is None:
            with Master(master_address(master), tls=tls_of(effective.settings)) as named:
                n_workers = named.info().n_threads
        if database.embedded_dir is None or database.embedded_dir.exists():
            try:
                url = stack.enter_context(opened(effective, database))
                if n_workers is None and (local := running_master(effective, url)) is not None:
                    with local:
                        n_workers = local.info().n_threads
            except ProtheonError as exc:
                why = str(exc)
        yield PlanWish(chosen, places, effective.settings, url, why, n_workers or None)
