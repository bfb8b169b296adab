"""Which hosts have workers with a master: as its broker tells it, and what a person at its terminal should know of a change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.cluster_wire import HostView
from protheon_dask.errors import ConfigError
from protheon_dask.run.trust.identity import tls_of
from protheon_dask.words import counted, visible

if TYPE_CHECKING:
    from protheon_dask.config import Settings

ASK_S: Final = 5.0
"""A person waits for the list of hosts no longer than this: without the master's answer it lacks a column."""
AWAY_LOOKS: Final = 5
"""Looks in a row that find no worker of a host, before it is said to be away: where the scheduler starts again they are back by then."""


def host_views(settings: Settings) -> Sequence[HostView]:
    """The hosts, as the master tells of them whose authority is on this machine.

    Raises: ConfigError: nobody noted where it is; BrokerUnavailable: it does not answer; NotAllowed.
    """
    from protheon_dask.run.trust.membership import membership_of

    tls = tls_of(settings)
    noted = membership_of(tls) if tls is not None else None
    if tls is None or noted is None:
        raise ConfigError("it is not noted here where the master is: `protheon cluster init` does that")
    with BrokerClient(noted.master, tls) as broker:
        return broker.hosts(ASK_S).hosts


class Roll:
    """Takes the hosts as they are, again and again, and tells what has changed. Pure; not thread-safe.

    own: the master's own host, of which nothing is told. hosts: those of the beginning; one that is here already is told of as well.
    """

    def __init__(self, own: str, hosts: Sequence[HostView]) -> None:
        self._own = own
        self._joined = {host.name: host.join_no for host in hosts}
        self._removed = {host.name for host in hosts if host.is_removed}
        self._here: dict[str, int] = {}  # hosts that were told to be here, and looks since one of their workers was

    def changes(self, hosts: Sequence[HostView]) -> Iterator[str]:
        """A line for each host that joined, is here, is away or was removed since it was told of last."""
        for host in hosts:
            if host.name != self._own:
                yield from self._change(host)
        for name in self._here.keys() - {host.name for host in hosts}:  # a broker that was started again, and no certificates
            yield from self._change(HostView(name))

    def _change(self, host: HostView) -> Iterator[str]:
        name = visible(host.name)
        if host.is_removed:
            self._here.pop(host.name, None)
            if host.name not in self._removed:
                self._removed.add(host.name)
                yield f"{name} is removed"
            return
        self._removed.discard(host.name)
        if host.join_no > self._joined.get(host.name, 0):
            self._joined[host.name] = host.join_no
            yield f"{name} joined"
        if host.n_workers:
            if host.name not in self._here:
                yield f"{name} is here, with {counted(host.n_workers, 'worker')}"
            self._here[host.name] = 0
        elif host.name in self._here:
            self._here[host.name] += 1
            if self._here[host.name] >= AWAY_LOOKS:
                del self._here[host.name]
                yield f"{name} is away: none of its workers is connected"
