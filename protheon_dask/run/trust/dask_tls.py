"""Dask's side of a cluster's certificates, in its own processes and in clients: renewed without a restart, and removed hosts refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final

from distributed import Client
from distributed.comm.core import Comm, CommClosedError
from distributed.core import Server
from tornado.ioloop import PeriodicCallback
from tornado.iostream import IOStream

from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError, ProtheonError
from protheon_dask.run.settings import AUTHORITY_DIR, home_of
from protheon_dask.run.trust.removed import Noted

logger = logging.getLogger(__name__)

LOOK_S: Final = 30.0
"""Period of the look whether the certificate was replaced: it is, hours before the old one ends."""
REMOVED_LOOK_S: Final = 0.5
"""Period of the look whether a host was removed: one stat() each."""

HANDSHAKE_S: Final = 20.0
"""How long a new connection may take to show its certificate; as long as gRPC's. Dask would wait for ever."""
MAX_HANDSHAKES: Final = 128
"""Connections that have shown none yet, of a listener; one more closes the oldest. Without a bound a stranger who says nothing takes all
files that a process may open (1,024 on many systems), and tornado then writes an error for each turn of its loop."""

Removed = Callable[[str, int], bool]
"""Of a host and its certificate's serial number: is nothing of it accepted? Raises ProtheonError: that cannot be told."""


class Renewed:
    """Shows the certificate that is in the file, from the next handshake on: of one server or client of Dask, which reads it once only.

    Not thread-safe, but contexts may be in use by other threads meanwhile.
    """

    def __init__(self, tls: TlsFiles) -> None:
        self._tls, self._stamp = tls, tls.stamp()

    def look(self, node: Server | Client) -> None:
        """Load the certificate anew where it was replaced."""
        stamp = self._tls.stamp()
        if stamp == self._stamp:
            return
        try:
            for context in contexts_of(node):
                context.load_cert_chain(self._tls.certificate, self._tls.key)
        except OSError as exc:  # ssl.SSLError too: it is being replaced; the old one serves until the next look
            logger.warning("certificate.unread", extra={"error": str(exc)})
            return
        self._stamp = stamp
        logger.info("certificate.renewed", extra={"directory": str(self._tls.directory)})


def contexts_of(node: Server | Client) -> Iterator[SSLContext]:
    """All that a server or client of Dask makes its connections by, incoming and outgoing."""
    arguments = [getattr(node, "connection_args", None) or {}, getattr(getattr(node, "rpc", None), "connection_args", None) or {}]
    seen = {id(context): context for each in arguments if (context := each.get("ssl_context")) is not None}
    for listener in getattr(node, "listeners", ()):
        if (context := getattr(listener, "server_args", {}).get("ssl_options")) is not None:
            seen[id(context)] = context
    yield from seen.values()


def keep_renewed(server: Server, settings: Settings) -> None:
    """Called by preloads, in the server's event loop: show new certificates as long as it lives. Nothing without TLS."""
    if not settings.tls_dir:
        return
    renewed = Renewed(TlsFiles(Path(settings.tls_dir).expanduser()))
    _periodically(server, "protheon-certificate", partial(renewed.look, server), LOOK_S)


def refuse_removed(server: Server, settings: Settings) -> None:
    """Called by preloads: accept no connection of a removed host, and close those that it has; nor any number of strangers. Nothing
    without TLS.

    The scheduler, and any other process on the master, asks the authority's own file: so it does after any restart, before anything
    else; one that cannot be read lets nobody in. Elsewhere it is what the master told this host last.
    """
    if not settings.tls_dir:
        return
    is_removed = _who_tells(home_of(settings), TlsFiles(Path(settings.tls_dir).expanduser()))
    for listener in server.listeners:
        # before Dask's own greeting: what the other end says there is unpickled already
        listener.on_connection = partial(_let_in, listener.on_connection, is_removed)  # type: ignore[method-assign]
        listener._prepare_stream = Handshakes(listener._prepare_stream).within  # type: ignore[attr-defined]  # of TCP's and TLS's
    _periodically(server, "protheon-removed", partial(close_removed, server, is_removed), REMOVED_LOOK_S)


def _who_tells(home: Path, tls: TlsFiles) -> Removed:
    try:
        if not (home / AUTHORITY_DIR).is_dir():
            return Noted(tls).is_removed
        from protheon_dask.run.trust.authority import Authority  # here: it loads cryptography

        return Authority.open(home).is_removed
    except (ProtheonError, OSError) as exc:  # Dask would log it and go on without us
        logger.exception("authority.unread")
        return partial(_cannot_tell, str(exc))


def _cannot_tell(why: str, _host: str, _serial_no: int) -> bool:
    raise ConfigError(why)


class Handshakes:
    """Those of one listener that are open. Used from its event loop."""

    def __init__(self, shake: Callable[..., Any]) -> None:
        self._shake = shake
        self._open: dict[IOStream, None] = {}  # the oldest first

    async def within(self, stream: IOStream, address: str) -> Any:
        """Wait for a handshake, HANDSHAKE_S at most: one whose stream is closed ends with an error that Dask logs."""
        if len(self._open) >= MAX_HANDSHAKES:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.close()
        self._open[stream] = None
        timer = asyncio.get_running_loop().call_later(HANDSHAKE_S, stream.close)
        try:
            return await self._shake(stream, address)
        finally:
            timer.cancel()
            self._open.pop(stream, None)


async def _let_in(greet: Callable[..., Any], is_removed: Removed, comm: Comm, *args: Any, **kwargs: Any) -> None:
    """Let Dask greet a new connection, unless it is one of a removed host, of which nothing is read. Raises CommClosedError then."""
    if (host := _removed_host(comm, is_removed)) is not None:
        logger.warning("host.refused", extra={"host": host, "address": comm.peer_address})
        comm.abort()  # type: ignore[no-untyped-call]  # distributed is not typed here
        raise CommClosedError(f"host {host} was removed")
    await greet(comm, *args, **kwargs)


def close_removed(server: Server, is_removed: Removed) -> None:
    """Close every connection of a removed host, incoming and outgoing: Dask takes its workers, clients or scheduler for lost."""
    pool = server.rpc
    outgoing = [comm for comms in (*pool.available.values(), *pool.occupied.values()) for comm in comms]
    comm = getattr(getattr(server, "batched_stream", None), "comm", None)
    if comm is not None and not comm.closed():
        outgoing.append(comm)  # a worker's to its scheduler, which is in no pool
    for comm in [*server._comms, *outgoing]:
        if (host := _removed_host(comm, is_removed)) is not None:
            logger.warning("host.closed", extra={"host": host, "address": comm.peer_address})
            comm.abort()  # type: ignore[no-untyped-call]  # as above


def _removed_host(comm: Comm, is_removed: Removed) -> str | None:
    """The host at the other end, if nothing of it is accepted; a certificate that cannot be read as one of ours is no host's."""
    host, serial_no = peer_of(comm)
    try:
        return host or "(no name)" if not host or is_removed(host, serial_no) else None
    except ProtheonError:  # the list of hosts is damaged: nobody is trusted then
        return host


def peer_of(comm: Comm) -> tuple[str, int]:
    """Name and serial number in the certificate of the other end; empty and 0: it has shown none."""
    shown = comm.extra_info.get("peercert") or {}
    names = [value for name in shown.get("subject", ()) for what, value in name if what == "commonName"]
    serial_no = 0
    with suppress(ValueError):
        serial_no = int(shown.get("serialNumber", ""), 16)
    return (names[0] if names else ""), serial_no


def _periodically(server: Server, name: str, look: Callable[[], None], period_s: float) -> None:
    callback = PeriodicCallback(look, period_s * 1000.0)
    server.periodic_callbacks[name] = callback  # Dask stops it with the server
    callback.start()
