"""Who is let in: every call passes here. Removed hosts are refused, also in the midst of a stream; nobody has all the streams."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import grpc
from grpc import aio

from protheon_dask.broker.calls import Context, abort
from protheon_dask.broker.peers import Peer, peer_of
from protheon_dask.errors import BrokerBusy, BrokerUnavailable, NotAllowed, ProtheonError

CONNECTION_STREAMS: Final = 32
"""Streams that one connection may have open: a worker process has two, a notebook one for each run that it shows."""
HOST_STREAMS: Final = 128
"""Those of all connections of another host together: two for each of 64 worker processes. A chunk whose reader has stopped holds 6 MiB
here (measured: message, copies, and what gRPC keeps of it), so that a host can make the broker hold 0.8 GiB, for READER_S."""
LOOK_PERIOD_S = 0.5
"""How often the hosts that have calls open are looked up again."""

Behaviour: TypeAlias = Callable[[Any, Context], Any]


class Gate(aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Wraps each handler of a server. Used from one event loop.

    is_removed: asked with each call of a host that has shown a certificate, and every LOOK_PERIOD_S while it has calls open.
    """

    def __init__(self, is_removed: Callable[[str, int], bool]) -> None:
        self._is_removed = is_removed
        self._n_streams: Counter[str] = Counter()  # by connection, and by party
        self._open: dict[tuple[str, int], set[asyncio.Task[Any]]] = {}  # calls, by host and number of its certificate
        self._looking: asyncio.Task[None] | None = None

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method: grpc says so
            return handler
        kind = f"{_kind(handler.request_streaming)}_{_kind(handler.response_streaming)}"
        behaviour: Behaviour = getattr(handler, kind)
        make = getattr(grpc, f"{kind}_rpc_method_handler")

        async def guarded(request: Any, context: Context) -> Any:
            return await self._serve(behaviour, request, context, is_stream=handler.response_streaming)

        made: grpc.RpcMethodHandler[Any, Any] = make(guarded, handler.request_deserializer, handler.response_serializer)
        return made

    def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def _serve(self, behaviour: Behaviour, request: Any, context: Context, *, is_stream: bool) -> Any:
        peer = peer_of(context)
        try:
            with self._known(peer), self._counted(peer, is_stream=is_stream):
                return await _called(behaviour, request, context)
        except (NotAllowed, BrokerUnavailable) as error:  # of here: services abort with theirs
            await abort(context, error)

    @contextmanager
    def _known(self, peer: Peer) -> Iterator[None]:
        """Let a call in and keep it in sight.

        Raises: NotAllowed: its host was removed, before it or while it went on. BrokerUnavailable: that cannot be told now.
        """
        task = asyncio.current_task()
        if not peer.host or task is None:
            yield
            return
        shown = (peer.host, peer.serial_no)
        if self._is_gone(*shown):
            raise self._refusal(peer)
        self._open.setdefault(shown, set()).add(task)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            yield
        except asyncio.CancelledError:
            if task in self._open.get(shown, ()):
                raise  # its client has hung up, or the server ends
            task.uncancel()
            raise self._refusal(peer) from None
        finally:
            calls = self._open.get(shown, set())
            calls.discard(task)
            if not calls:
                self._open.pop(shown, None)

    @contextmanager
    def _counted(self, peer: Peer, *, is_stream: bool) -> Iterator[None]:
        """Raises: BrokerBusy: one stream more than this client, or its host, may have."""
        limits = {peer.connection: CONNECTION_STREAMS}
        if not peer.is_here:
            limits[peer.party] = HOST_STREAMS
        for who, limit in limits.items():
            if is_stream and self._n_streams[who] >= limit:
                raise BrokerBusy(f"{peer} has {limit} streams open here, and may have no more: one of them must end first")
        n = int(is_stream)
        self._n_streams.update(dict.fromkeys(limits, n))
        try:
            yield
        finally:
            self._n_streams.subtract(dict.fromkeys(limits, n))
            for who in limits:
                if not self._n_streams[who]:
                    del self._n_streams[who]

    async def _look(self) -> None:
        """End the calls of hosts that were removed, as long as there are calls."""
        while self._open:
            await asyncio.sleep(LOOK_PERIOD_S)
            for shown in [shown for shown in self._open if self._is_gone(*shown)]:
                for task in self._open.pop(shown):
                    task.cancel()

    def _is_gone(self, host: str, serial_no: int) -> bool:
        """What cannot be told is refused: a list of hosts that cannot be read lets nobody in but those without a name."""
        try:
            return self._is_removed(host, serial_no)
        except ProtheonError:
            return True

    def _refusal(self, peer: Peer) -> NotAllowed | BrokerUnavailable:
        """Why nothing of a host is accepted: for good, which ends its work, or until a person has mended the list."""
        try:
            is_removed, why = self._is_removed(peer.host, peer.serial_no), "ask again"  # mended at this moment
        except ProtheonError as error:
            is_removed, why = False, str(error)
        if not is_removed:
            return BrokerUnavailable(f"the master cannot tell whom it removed, and lets nobody in until it can: {why}")
        return NotAllowed(
            f"host {peer.host} was removed from this cluster: nothing of it is accepted. "
            "To let it in again: `protheon cluster invite` on the master, and `protheon worker --join TOKEN` there"
        )


async def _called(behaviour: Behaviour, request: Any, context: Context) -> Any:
    """A handler's answer; of one that yields its messages they are written."""
    if not inspect.isasyncgenfunction(behaviour):
        return await behaviour(request, context)
    messages: AsyncIterator[Any] = behaviour(request, context)
    async for message in messages:
        await context.write(message)
    return None


def _kind(is_streaming: bool) -> str:
    return "stream" if is_streaming else "unary"
