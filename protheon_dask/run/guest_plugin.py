"""What makes workers of ours of those of somebody else's Dask cluster, which were started without our preload.

No secret but one travels through a Dask that is not ours: the key that signs pipelines for guests, and for nobody else. Who reads it
there can run code on those workers anyway. The database's URL is the workers' own (PROTHEON_DATABASE_URL in their environment).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from distributed import Worker, WorkerPlugin

from protheon_dask.run.settings import environment, read_settings
from protheon_dask.run.tasks import HOST_METRIC
from protheon_dask.run.trust.identity import own_name

PLUGIN: Final = "protheon"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a worker of somebody else needs to work for us. It travels through their Dask."""

    broker_address: str
    settings: Mapping[str, str]  # those that are the master's on every host
    key: bytes | None = field(repr=False)


class GuestPlugin(WorkerPlugin):
    """Registered by the broker: each of the scheduler's workers, now and later, can run attempts. Nothing starts before the first one."""

    name = PLUGIN
    idempotent = False  # a broker that was started again, elsewhere, is told anew

    def __init__(self, terms: Terms) -> None:
        self.terms = terms

    def setup(self, worker: Worker) -> None:
        """Called by Dask in the worker process."""
        from protheon_dask.run.worker import accept_guest

        settings = read_settings(dict(self.terms.settings)).settings
        env = {name: value for name, value in environment().items() if name.startswith("PROTHEON_")}
        accept_guest(settings, {**env, "PROTHEON_BROKER": self.terms.broker_address}, str(worker.name), self.terms.key)
        host = own_name(settings)  # as its attempts have it; by Dask's, an address, none of them would be this worker's
        worker.metrics[HOST_METRIC] = lambda _worker: host
