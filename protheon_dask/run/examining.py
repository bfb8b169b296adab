"""``protheon doctor`` as one call: which database and which master are meant, what was gathered there, and the diagnosis."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from protheon_dask.config import Effective
from protheon_dask.errors import ProtheonError
from protheon_dask.run.addresses import master_address
from protheon_dask.run.api import opened, running_master
from protheon_dask.run.doctor import Diagnosis, diagnose
from protheon_dask.run.gathering import Asked, gather
from protheon_dask.run.local import Database, embedded_server
from protheon_dask.run.trust.identity import joined_master, tls_of
from protheon_dask.run.vitals import Gathered


def examine(
    effective: Effective,
    database: Database,
    master: str | None,
    *,
    is_given: bool,
    wants_bench: bool = False,
    on_step: Callable[[str], object] = lambda _: None,
) -> tuple[Gathered, Diagnosis]:
    """Look and judge. is_given: a person named the database for this.

    master: None: the one whose cluster this host has joined, else the local one of this database, if it runs.

    The embedded database is left aside where a master is named: it is not that one's. One that was never made is not made for this.
    Raises: ConfigError: the address, or the database's URL, cannot be read.
    """
    settings = effective.settings
    tls = tls_of(settings)
    address = master_address(master) if master else joined_master(settings)
    tls = tls if address else None
    asked = Asked(settings, None, address, tls, database=database, wants_bench=wants_bench, on_step=on_step)
    trouble, is_unmade = "", False
    with ExitStack() as stack:
        if not (address and database.embedded and not is_given):
            try:
                if not (is_unmade := _is_unmade(effective, database)):
                    url = stack.enter_context(opened(effective, database))
                    asked = replace(asked, url=url)
                    if not address and (local := running_master(effective, url)) is not None:
                        local.close()
                        asked = replace(asked, master=local.address, tls=local.tls)
            except ProtheonError as exc:  # it does not answer, or cannot be started: that is a finding
                trouble = str(exc)
        found = gather(asked)
    if is_unmade:
        found = replace(found, is_unmade=True, database=database.origin)
    if trouble and not found.here.database_trouble:
        found = replace(found, here=replace(found.here, database_trouble=trouble), database=found.database or database.origin)
    return found, diagnose(found)


def _is_unmade(effective: Effective, database: Database) -> bool:
    """Is it the embedded one, and was never made? Raises ConfigError where it could not be: there is no PostgreSQL here."""
    directory = database.embedded_dir
    if directory is None or directory.exists():
        return False
    embedded_server(effective.settings, directory).choose_binaries()
    return True
