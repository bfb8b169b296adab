"""The broker's answers about hosts: what they need to work, their certificates, and which of them are here."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from protheon_dask import __version__
from protheon_dask.broker.cluster_wire import Enrolment, HostList, HostView, Versions
from protheon_dask.broker.peers import Peer
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError, NotAllowed
from protheon_dask.run.dask_link import DaskLink
from protheon_dask.run.hosts import HostWatch
from protheon_dask.run.versions import own_versions

if TYPE_CHECKING:
    from protheon_dask.run.trust.authority import Authority, HostRecord

logger = logging.getLogger(__name__)

AGREED: Final = (
    "lease_s",
    "renew_s",
    "stall_s",
    "complete_grace_s",
    "exit_grace_s",
    "advisory_wait_s",
    "dead_at_failures",
    "dead_at_crashes",
    "dead_at_losses",
    "backoff_base_s",
    "backoff_cap_s",
    "backoff_jitter",
    "batch_lines",
    "batch_bytes",
)
"""Settings that are the master's on every host."""
MAX_ENROLLED: Final = 1_000
"""Hosts whose versions are remembered: over plaintext anybody may give any name."""
MAX_NAME_CHARS: Final = 253
"""Longest name of a host in the DNS. A worker's is told no longer either: each host hears all of them at every look."""
MAX_LIBRARIES: Final = 32
MAX_VERSION_CHARS: Final = 64
"""Of a version, and of a library's name, in ASCII. Every host is told the versions of all: with MAX_ENROLLED hosts that say as much as they
may, that is a quarter of what a message holds."""

MAX_ASIDE_CHARS: Final = 1_000
"""Of why a host gets no work: it ends with what an exception there said, which has any length."""


class Led(Protocol):
    """What is asked of the coordinator, from other threads."""

    @property
    def dask(self) -> DaskLink: ...
    @property
    def hosts(self) -> HostWatch: ...


class ClusterDesk:
    """Answers for hosts. Thread-safe; needs no PostgreSQL.

    authority: None: there are no certificates here, and no secret leaves.
    key:       of the cluster, given to hosts that have shown their certificate.
    """

    def __init__(self, settings: Settings, led: Led, scheduler_address: str, authority: Authority | None, key: bytes) -> None:
        self._settings, self._led, self._scheduler_address = settings, led, scheduler_address
        self._authority, self._key = authority, key
        self._lock = threading.Lock()
        self._enrolled: dict[str, Versions] = {}  # by host, the latest last

    def enrol(self, host: str, version: str, versions: Versions, peer: Peer) -> Enrolment:
        """What a host needs to work. Its secrets go to one that has shown its certificate alone.

        Raises: ConfigError: it has no name that could be one, or versions that are none.
        """
        name = peer.host or host
        if not (0 < len(name) <= MAX_NAME_CHARS and name.isprintable()):
            raise ConfigError(f"{name[:80]!r} cannot be a host's name: name it with --name")
        words = (version, versions.python, *versions.libraries, *versions.libraries.values())
        are_versions = all(len(word) <= MAX_VERSION_CHARS and word.isascii() and word.isprintable() for word in words)
        if len(versions.libraries) > MAX_LIBRARIES or not are_versions:
            raise ConfigError(f"host {name} tells versions that are none, or of more than {MAX_LIBRARIES} libraries: see what runs there")
        with self._lock:
            self._enrolled.pop(name, None)
            self._enrolled[name] = versions
            if len(self._enrolled) > MAX_ENROLLED:
                del self._enrolled[next(iter(self._enrolled))]
        is_proved = self._authority is not None and bool(peer.host)
        logger.info("host.enrol", extra={"host": name, "version": version, "python": versions.python, "with_secrets": is_proved})
        return Enrolment(
            scheduler_address=self._scheduler_address,
            version=__version__,
            versions=own_versions(),
            settings={name: str(getattr(self._settings, name)) for name in AGREED},
            database_url=self._settings.database_url if is_proved else "",
            cluster_key=self._key if is_proved else b"",
        )

    def renew(self, request_pem: bytes, peer: Peer) -> bytes:
        """A new certificate for the caller, under the name in its present one.

        Raises: NotAllowed: it was removed, or has shown none. ConfigError: the request, or there is no authority here.
        """
        if self._authority is None:
            raise ConfigError("this master has no authority to renew a certificate by: it speaks plaintext, or its home is elsewhere")
        if not peer.host:
            raise NotAllowed(f"{peer} has shown no certificate that could be renewed: join by `protheon worker --join TOKEN`")
        renewed = self._authority.renew(peer.host, request_pem, peer.serial_no)
        logger.info("host.renew", extra={"host": peer.host})
        return renewed

    def hosts(self) -> HostList:
        """All hosts that have workers here, that enrolled since this broker began, or that ever joined, by name."""
        workers: dict[str, list[str]] = defaultdict(list)
        with suppress(OSError):  # the scheduler does not answer: nobody knows of any
            for worker in self._led.dask.workers():
                workers[worker.host[:MAX_NAME_CHARS]].append(worker.name[:MAX_NAME_CHARS])  # somebody else's Dask gives any
        aside = self._led.hosts.reasons
        records: Mapping[str, HostRecord] = {} if self._authority is None else {record.name: record for record in self._authority.hosts()}
        with self._lock:
            enrolled = dict(self._enrolled)
        views = [
            _view(name, workers.get(name, ()), aside.get(name, "")[:MAX_ASIDE_CHARS], enrolled.get(name, Versions()), records.get(name))
            for name in sorted({*workers, *aside, *enrolled, *records})
        ]
        return HostList(time.time(), __version__, own_versions(), views)

    def is_removed(self, host: str, serial_no: int) -> bool:
        """Tell whether nothing of the host that shows this certificate is accepted. Raises ConfigError: that cannot be told."""
        return self._authority is not None and self._authority.is_removed(host, serial_no)


def _view(name: str, workers: Sequence[str], aside: str, versions: Versions, record: HostRecord | None) -> HostView:
    if record is None:
        return HostView(name, len(workers), aside, versions, workers=workers)
    until, is_removed = record.until_at.isoformat(timespec="seconds"), record.removed_at is not None
    return HostView(name, len(workers), aside, versions, until, is_removed, record.join_no, workers)
