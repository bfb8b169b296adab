"""A cluster object over a master that runs already: its address, this user's key, and the database if it can be had from here."""

from __future__ import annotations

import socket
from collections.abc import Callable

from protheon_dask.broker.peers import is_loopback
from protheon_dask.config import Effective, Settings
from protheon_dask.errors import BrokerUnavailable, ConfigError, OtherTransport, ProtheonError
from protheon_dask.ledger import reports
from protheon_dask.ledger.connect import opened
from protheon_dask.ledger.migrate import applied
from protheon_dask.run.addresses import IS_IT_THERE, master_address
from protheon_dask.run.cluster import Cluster
from protheon_dask.run.link import APPLICATION, Link
from protheon_dask.run.local import Database, embedded_server
from protheon_dask.run.master import Master
from protheon_dask.run.settings import home_of
from protheon_dask.run.trust.identity import joined_master, tls_of
from protheon_dask.run.trust.keys import KEY_FILE, read_key
from protheon_dask.run.versions import own_versions


def attach(effective: Effective, address: str, database: Database, *, is_given: bool, say: Callable[[str], object]) -> Cluster:
    """A cluster over the master at this address.

    database: where its ledger may be reached from here. is_given: a person named it for this; else it is left aside if it is not that.
    Raises:   BrokerUnavailable: no master answers there. ConfigError: the address, or the database that was given is another one.
    """
    place = master_address(address)
    master, ledger_id = reached(effective.settings, place)
    try:
        return Cluster(Link(master, ledger_url(effective.settings, database, ledger_id, is_given=is_given), say=say))
    except ProtheonError:
        master.close()
        raise


def own_master(settings: Settings) -> str:
    """The gRPC address that was noted when this host joined its cluster; on the master its own. Raises ConfigError: it is in none."""
    from protheon_dask.run.trust.membership import membership_of  # here: it loads cryptography

    tls = tls_of(settings)
    member = None if tls is None else membership_of(tls)
    if member is None:
        raise ConfigError(
            "connect() to which master? This host has joined no cluster: give its gRPC address, protheon.connect('HOST:50051'), or "
            "scheduler=, the address of a Dask cluster"
        )
    return member.master


def reached(settings: Settings, place: str) -> tuple[Master, str]:
    """The master at this address, and its ledger's id: by this host's certificate, if it has one.

    On loopback the embedded cluster answers without TLS, whatever certificate the host has: where nobody answers by it, that is tried.
    Raises: BrokerUnavailable, ConfigError.
    """
    tls, key_file = tls_of(settings), home_of(settings) / KEY_FILE
    key = read_key(key_file) if key_file.exists() else None
    ways = [tls, None] if tls is not None and is_loopback(place.rpartition(":")[0]) else [tls]
    told: ProtheonError | None = None
    for way in ways:
        master = Master(place, key, tls=way)
        try:
            found = master.info().ledger_id
            if way is not None and (key is None or joined_master(settings)):  # it signs as the master does: a key here is another
                key = master.enrol(socket.gethostname(), own_versions()).cluster_key or None
                master.close()
                master = Master(place, key, tls=way)
            return master, found
        except (BrokerUnavailable, OtherTransport) as exc:
            master.close()
            told = told or exc
        except ProtheonError:
            master.close()
            raise
    if isinstance(told, OtherTransport):
        raise told
    raise BrokerUnavailable(f"{told}. {IS_IT_THERE}") from told


def ledger_url(settings: Settings, database: Database, ledger_id: str, *, is_given: bool) -> str | None:
    """The URL of this ledger, if the database is it and answers; None: it is not.

    Raises: ConfigError, LedgerUnavailable: as it was given it must be.
    """
    url: str | None = database.url
    if database.embedded_dir is not None:
        url = embedded_server(settings, database.embedded_dir).running_url() if database.embedded_dir.exists() else None
    try:
        if url is None:
            raise ConfigError(f"the embedded PostgreSQL does not run in {database.embedded_dir}")
        with opened(url, application=APPLICATION) as conn:
            found = str(reports.status(conn)["ledger_id"]) if applied(conn) else None
        if found != ledger_id:
            what = (
                "it has no ledger" if found is None else f"its ledger is {found}, the master's {ledger_id or 'not known: it does not lead'}"
            )
            raise ConfigError(f"the database that {database.origin} names is not the one of this master: {what}")
    except ProtheonError:
        if is_given:
            raise
        return None
    return url
