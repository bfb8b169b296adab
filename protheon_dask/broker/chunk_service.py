"""ChunkService: the bytes of chunks over gRPC, and chunks that are kept for others than runs."""

from __future__ import annotations

# ruff: noqa: N802  # the methods of a service are named by the .proto
import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Final

from protheon_dask.broker import pin_wire, wire
from protheon_dask.broker._pb import chunk_pb2, chunk_pb2_grpc
from protheon_dask.broker.calls import Context, Pool, abort, write
from protheon_dask.broker.chunks import MESSAGE_BYTES
from protheon_dask.broker.peers import peer_of
from protheon_dask.broker.ports import ChunkPort, PinCutting, PinPort, StoredChunk
from protheon_dask.errors import ChunkGap, ChunkOutdated, ChunkUnavailable, ConfigError, ProtheonError

CHUNK_SERVICE: Final = chunk_pb2.DESCRIPTOR.services_by_name["ChunkService"].full_name
TURN_PERIOD_S = 0.2
"""How often who waits to have sources cut asks whether it is his turn."""


class ChunkService(chunk_pb2_grpc.ChunkServiceServicer):
    def __init__(
        self,
        port: ChunkPort,
        pins: PinPort | None,
        find_pool: Pool,
        read_pool: ThreadPoolExecutor,
        pin_pool: Pool,
        on_sent: Callable[[int, int], None] | None,
    ) -> None:
        self._port, self._pins, self._on_sent = port, pins, on_sent
        self._find_pool, self._read_pool, self._pin_pool = find_pool, read_pool, pin_pool

    async def Pin(self, request: chunk_pb2.PinRequest, context: Context) -> None:  # type: ignore[override]  # as Watch
        pins = await self._pinning(context)
        cutting = await self._pin_pool.answer(context, pins.pin, pin_wire.pin_from_message(request), peer_of(context))
        try:
            await self._send_pinned(cutting, context)
        except ProtheonError as error:  # not in there: this waits behind what the client has not read
            await abort(context, error)

    async def _send_pinned(self, cutting: PinCutting, context: Context) -> None:
        try:
            while (chunk := await self._pin_pool.run(cutting.next)) is not None:
                if chunk == "later":
                    await asyncio.sleep(TURN_PERIOD_S)  # not in a thread: all of them waiting, who has the turn would find none
                else:
                    await write(context, pin_wire.pinned_to_message(chunk))
        finally:  # also when the client went away
            cutting.stop()
            await asyncio.shield(self._pin_pool.run(cutting.close))

    async def RenewPin(self, request: chunk_pb2.RenewPinRequest, context: Context) -> chunk_pb2.RenewPinResponse:
        pins = await self._pinning(context)
        await self._find_pool.answer(context, pins.renew, request.pin_id, request.ttl_s)
        return pin_wire.renewed_message()

    async def Unpin(self, request: chunk_pb2.UnpinRequest, context: Context) -> chunk_pb2.UnpinResponse:
        pins = await self._pinning(context)
        await self._find_pool.answer(context, pins.unpin, request.pin_id)
        return pin_wire.unpinned_message()

    async def _pinning(self, context: Context) -> PinPort:
        if self._pins is None:
            await abort(context, ConfigError("this broker keeps no chunks but those of runs"))
        return self._pins

    async def ReadChunk(self, request: chunk_pb2.ReadChunkRequest, context: Context) -> None:  # type: ignore[override]  # as Watch
        asked = wire.read_from_message(request)
        if asked.pin_id:
            pins = await self._pinning(context)
            stored = await self._find_pool.answer(context, pins.locate, asked.pin_id, asked.chunk_id, asked.generation)
        else:
            stored = await self._find_pool.answer(context, self._port.locate, asked.chunk_id, asked.generation)
        try:
            await self._send(asked, stored, context)
        except ProtheonError as error:
            await abort(context, error)

    async def _send(self, asked: wire.ReadChunk, stored: StoredChunk, context: Context) -> None:
        """Write the rest of the chunk, one message read ahead of the one that is being sent."""
        if stored.generation != asked.generation:
            raise ChunkOutdated(f"chunk {asked.chunk_id}: generation {asked.generation} was asked for, {stored.generation} is stored")
        if not 0 <= asked.offset_bytes <= stored.stored_bytes:
            raise ChunkGap(stored.stored_bytes, asked.offset_bytes)
        offset_bytes = asked.offset_bytes
        if offset_bytes == stored.stored_bytes:
            return
        reader = _PieceReader(asked.chunk_id, stored, offset_bytes)
        ahead = self._read_pool.submit(reader.read)
        try:
            while True:
                data = await asyncio.wrap_future(ahead)
                next_bytes = offset_bytes + len(data)
                if next_bytes < stored.stored_bytes:
                    ahead = self._read_pool.submit(reader.read)
                await write(context, wire.piece_to_message(offset_bytes, data))
                if self._on_sent is not None and not asked.pin_id:
                    self._on_sent(asked.chunk_id, len(data))
                if next_bytes == stored.stored_bytes:
                    return
                offset_bytes = next_bytes
        finally:  # also when the client went away; a read may be under way in its thread, and must not lose its file
            ahead.add_done_callback(lambda _: reader.close())


class _PieceReader:
    """One stored file, piece after piece; blocking, so called in a pool, one call at a time.

    It is open only while it is read: on POSIX a file that is deleted meanwhile is still sent whole.
    """

    def __init__(self, chunk_id: int, stored: StoredChunk, offset_bytes: int) -> None:
        self._chunk_id, self._stored, self._offset_bytes = chunk_id, stored, offset_bytes
        self._file: BinaryIO | None = None

    def read(self) -> bytes:
        """Return the next MESSAGE_BYTES, or what is left. Raises: ChunkUnavailable: the file is gone, shorter, or unreadable."""
        n_bytes = min(MESSAGE_BYTES, self._stored.stored_bytes - self._offset_bytes)
        try:
            if self._file is None:
                self._file = self._stored.path.open("rb")
                self._file.seek(self._offset_bytes)
            data = self._file.read(n_bytes)
        except OSError as error:
            raise ChunkUnavailable(f"chunk {self._chunk_id}: its file in the workspace: {error.strerror}") from error
        self._offset_bytes += len(data)
        if len(data) < n_bytes:
            raise ChunkUnavailable(
                f"chunk {self._chunk_id}: its file in the workspace ends at byte {self._offset_bytes} of {self._stored.stored_bytes}"
            )
        return data

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
