"""The gRPC server of the master: chunk streams, runs, health, and reflection on loopback. Async; its ports are plain functions."""

from __future__ import annotations

# ruff: noqa: N802  # the methods of a service are named by the .proto
import asyncio
import functools
import ipaddress
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, NoReturn, ParamSpec, Protocol, TypeVar

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from protheon_dask.broker import pin_wire, wire
from protheon_dask.broker._pb import chunk_pb2, chunk_pb2_grpc, run_pb2, run_pb2_grpc, task_pb2, task_pb2_grpc
from protheon_dask.broker.chunks import MESSAGE_BYTES, PinnedChunk
from protheon_dask.broker.tls import TlsFiles, server_credentials
from protheon_dask.errors import BrokerUnavailable, ChunkGap, ChunkOutdated, ChunkUnavailable, ConfigError, ProtheonError

if TYPE_CHECKING:
    Context = aio.ServicerContext[Any, Any]

P = ParamSpec("P")
T = TypeVar("T")

OPTIONS: Final = (
    # measured, PITFALLS 8: without the first a second broker takes the same port without a word; without the others pings
    # are answered by GOAWAY, or a frozen client is never noticed
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)
WATCH_PERIOD_S = 0.5
"""How often a watched run is looked at."""
TASK_PERIOD_S = 0.25
"""How often the tasks that somebody waits for are looked at, all in one question."""
TURN_PERIOD_S = 0.2
"""How often who waits to have sources cut asks whether it is his turn."""
REPORTS = 4
"""Reports that are read at a time, each with a connection to PostgreSQL and a transaction; more of them wait."""
READER_S = 30.0
"""How long a reader of a report, or of chunks that are cut for him, may take nothing: others wait for what is held for him."""
MAX_TASK_WAIT_S = 60.0
"""Longest WaitTask, and the one that is asked for without a time."""
POOL_THREADS = 8
"""Of each pool: runs, tasks, the finding of chunks, the reading of files: a slow ledger must not hold up open streams."""
SERVICES: Final = tuple(
    message.DESCRIPTOR.services_by_name[name].full_name for message, name in ((chunk_pb2, "ChunkService"), (run_pb2, "RunService"))
)
TASK_SERVICE: Final = task_pb2.DESCRIPTOR.services_by_name["TaskService"].full_name


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """Where a chunk's stored form lies, and how long it is by its manifest."""

    path: Path
    stored_bytes: int
    generation: int


class ChunkPort(Protocol):
    """Finds chunks. Called in a thread; thread-safe."""

    def locate(self, chunk_id: int, generation: int) -> StoredChunk:
        """Raises: NotFound; ChunkOutdated: it has another generation; ChunkUnavailable: its file is being cut again."""
        ...


class PinCutting(Protocol):
    """The chunks of one pin, as they are cut. Blocking, and called in threads."""

    def next(self) -> PinnedChunk | Literal["later"] | None:
        """The next one; "later": ask again in a moment; None after the last. One call at a time.

        Raises: any ProtheonError; nothing comes after it.
        """
        ...

    def stop(self) -> None:
        """Cut no more, also in the midst of next(), which then soon returns None. Does not block."""
        ...

    def close(self) -> None:
        """As stop(), and wait for it. Always called, and last. Idempotent."""
        ...


class PinPort(Protocol):
    """Keeps chunks that no run loads. Called in threads; thread-safe."""

    def pin(self, request: pin_wire.PinRequest) -> PinCutting: ...
    def renew(self, pin_id: str, ttl_s: float) -> None: ...
    def unpin(self, pin_id: str) -> None: ...
    def locate(self, pin_id: str, chunk_no: int, generation: int) -> StoredChunk:
        """Raises: NotFound: it was released, or ran out; ChunkUnavailable: its file is being cut again."""
        ...


class RunPort(Protocol):
    """Answers for runs. Plain blocking functions, called in threads; thread-safe. run_id 0 is the latest.

    Raises: any ProtheonError, which the client raises again.
    """

    def submit(self, submission: wire.Submission) -> wire.Submitted: ...
    def get(self, run_id: int) -> wire.RunView: ...
    def list(self, limit: int) -> Iterable[wire.RunView]: ...
    def cancel(self, run_id: int) -> wire.RunView: ...
    def pause(self, run_id: int, reason: str) -> wire.RunView: ...
    def resume(self, resumption: wire.Resumption) -> wire.RunView: ...
    def replay(self, replay: wire.Replay) -> wire.Submitted: ...
    def undo(self, load_id: int) -> wire.Undone: ...
    def replay_dead_letters(self, choice: wire.LetterChoice) -> wire.DeadLetters: ...
    def purge_dead_letters(self, choice: wire.LetterChoice) -> wire.DeadLetters: ...
    def info(self) -> wire.MasterInfo: ...
    def report(self, wanted: wire.Report) -> Generator[str]:
        """Pages of JSON, each made when it is asked for, in a thread of its own; closed when the client wants no more."""
        ...


class TaskPort(Protocol):
    """Answers for tasks of the general queue, as RunPort does for runs."""

    def submit(self, submission: wire.TaskSubmission) -> wire.TaskView: ...
    def get(self, task_id: int) -> wire.TaskView: ...
    def cancel(self, task_id: int) -> wire.TaskView: ...
    def ended(self, task_ids: Sequence[int]) -> Iterable[wire.TaskView]:
        """Those of these tasks that have ended."""
        ...


class BrokerServer:
    """Serves its ports from the running event loop. Single use.

    tasks:   None: the general queue is not served here.
    pins:    None: chunks are not kept here for anybody but runs.
    on_sent: called in the loop with (chunk_id, bytes) after each message: count and return.
    Guarantee: memory is two messages a stream, however slow its reader; nothing blocks the loop.
    """

    def __init__(
        self,
        runs: RunPort,
        chunks: ChunkPort,
        tasks: TaskPort | None = None,
        on_sent: Callable[[int, int], None] | None = None,
        pins: PinPort | None = None,
    ) -> None:
        names = ("run", "task", "find", "read", "pin", "report")
        self._pools = [ThreadPoolExecutor(POOL_THREADS, f"broker-{name}") for name in names]
        run_pool, task_pool, find_pool, read_pool, pin_pool, report_pool = self._pools
        self._runs = _Runs(runs, run_pool, report_pool)
        self._tasks = None if tasks is None else _Tasks(tasks, task_pool)
        self._chunks = _Chunks(chunks, pins, find_pool, read_pool, pin_pool, on_sent)
        self._server: aio.Server | None = None
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs do not know it

    async def serve(self, host: str, port: int, tls: TlsFiles | None = None) -> int:
        """Listen on host and port (0: any free one) and return the port.

        tls: mutual; None: plaintext.
        Raises: ConfigError: the address is taken, or not this machine's; nothing listens then. MissingSetting: of tls.
        """
        server = aio.server(options=OPTIONS)
        chunk_pb2_grpc.add_ChunkServiceServicer_to_server(self._chunks, server)
        run_pb2_grpc.add_RunServiceServicer_to_server(self._runs, server)
        services = SERVICES
        if self._tasks is not None:
            task_pb2_grpc.add_TaskServiceServicer_to_server(self._tasks, server)
            services = (*SERVICES, TASK_SERVICE)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if is_loopback(host):
            reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound_port = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, server_credentials(tls))
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {address}: is another broker there? Stop it, or choose another port") from error
        self._server = server
        for name in ("", *services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await server.start()
        return bound_port

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls at once, let open ones run for grace_s, then end them; clients resume elsewhere or later."""
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace_s)
        if self._tasks is not None:
            self._tasks.stop()
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class _Runs(run_pb2_grpc.RunServiceServicer):
    def __init__(self, port: RunPort, pool: ThreadPoolExecutor, report_pool: ThreadPoolExecutor) -> None:
        self._port, self._pool, self._report_pool = port, pool, report_pool
        self._reporting = asyncio.Semaphore(REPORTS)

    async def Submit(self, request: run_pb2.SubmitRequest, context: Context) -> run_pb2.SubmitResponse:
        submission = wire.submission_from_message(request)
        return wire.submitted_to_message(await _answer(context, self._pool, self._port.submit, submission))

    async def Get(self, request: run_pb2.GetRequest, context: Context) -> run_pb2.Run:
        return wire.run_to_message(await _answer(context, self._pool, self._port.get, request.run_id))

    async def List(self, request: run_pb2.ListRequest, context: Context) -> run_pb2.ListResponse:
        return wire.runs_to_message(await _answer(context, self._pool, self._port.list, request.limit))

    async def Watch(self, request: run_pb2.WatchRequest, context: Context) -> None:  # type: ignore[override]  # writes, yields nothing
        run_id, last = request.run_id, None
        while True:
            view = await _answer(context, self._pool, self._port.get, run_id)
            run_id = view.run_id  # 0 named the latest run: stay with it
            if view != last:
                await context.write(wire.run_to_message(view))
                last = view
            if view.is_settled:
                return
            await asyncio.sleep(WATCH_PERIOD_S)

    async def Cancel(self, request: run_pb2.CancelRequest, context: Context) -> run_pb2.Run:
        return wire.run_to_message(await _answer(context, self._pool, self._port.cancel, request.run_id))

    async def Pause(self, request: run_pb2.PauseRequest, context: Context) -> run_pb2.Run:
        return wire.run_to_message(await _answer(context, self._pool, self._port.pause, request.run_id, request.reason))

    async def Resume(self, request: run_pb2.ResumeRequest, context: Context) -> run_pb2.Run:
        return wire.run_to_message(await _answer(context, self._pool, self._port.resume, wire.resumption_from_message(request)))

    async def Replay(self, request: run_pb2.ReplayRequest, context: Context) -> run_pb2.SubmitResponse:
        return wire.submitted_to_message(await _answer(context, self._pool, self._port.replay, wire.replay_from_message(request)))

    async def Undo(self, request: run_pb2.UndoRequest, context: Context) -> run_pb2.UndoResponse:
        return wire.undone_to_message(await _answer(context, self._pool, self._port.undo, request.load_id))

    async def ReplayDeadLetters(self, request: run_pb2.DeadLettersRequest, context: Context) -> run_pb2.DeadLettersResponse:
        choice = wire.choice_from_message(request)
        return wire.letters_to_message(await _answer(context, self._pool, self._port.replay_dead_letters, choice))

    async def PurgeDeadLetters(self, request: run_pb2.DeadLettersRequest, context: Context) -> run_pb2.DeadLettersResponse:
        choice = wire.choice_from_message(request)
        return wire.letters_to_message(await _answer(context, self._pool, self._port.purge_dead_letters, choice))

    async def Report(self, request: run_pb2.ReportRequest, context: Context) -> None:  # type: ignore[override]  # as Watch
        try:
            async with self._reporting:
                await self._send_report(wire.report_from_message(request), context)
        except ProtheonError as error:  # not in there: this waits behind what the client has not read
            await _abort(context, error)

    async def _send_report(self, wanted: wire.Report, context: Context) -> None:
        loop, pages = asyncio.get_running_loop(), self._port.report(wanted)

        def make_next() -> asyncio.Future[str | None]:
            return loop.run_in_executor(self._report_pool, lambda: next(pages, None))

        async def close() -> None:
            await asyncio.wait([ahead])  # a page that is in the making ends first
            if not ahead.cancelled():
                ahead.exception()  # nobody asks for it any more
            await loop.run_in_executor(self._report_pool, pages.close)

        ahead = make_next()
        try:
            while (page := await asyncio.shield(ahead)) is not None:
                await _write(context, wire.page_to_message(page))
                ahead = make_next()
        finally:  # also when the client went away; nobody gets this place before its transaction has ended
            await asyncio.shield(close())

    async def Info(self, request: run_pb2.InfoRequest, context: Context) -> run_pb2.InfoResponse:  # noqa: ARG002  # the service's shape
        return wire.info_to_message(await _answer(context, self._pool, self._port.info))


class _Tasks(task_pb2_grpc.TaskServiceServicer):
    def __init__(self, port: TaskPort, pool: ThreadPoolExecutor) -> None:
        self._port, self._pool = port, pool
        self._awaited: dict[int, list[asyncio.Future[wire.TaskView]]] = {}  # by task, one a caller
        self._looking: asyncio.Task[None] | None = None

    async def SubmitTask(self, request: task_pb2.SubmitTaskRequest, context: Context) -> task_pb2.Task:
        submission = wire.task_submission_from_message(request)
        return wire.task_to_message(await _answer(context, self._pool, self._port.submit, submission))

    async def GetTask(self, request: task_pb2.GetTaskRequest, context: Context) -> task_pb2.Task:
        return wire.task_to_message(await _answer(context, self._pool, self._port.get, request.task_id))

    async def WaitTask(self, request: task_pb2.WaitTaskRequest, context: Context) -> task_pb2.Task:
        if not request.timeout_s >= 0:  # not a number is refused as well
            await _abort(context, ConfigError(f"timeout_s={request.timeout_s:g}: wait 0 (as long as possible) to {MAX_TASK_WAIT_S:g} s"))
        task = await _answer(context, self._pool, self._port.get, request.task_id)
        if not task.is_ended:
            ended = await self._ended(task.task_id, min(request.timeout_s or MAX_TASK_WAIT_S, MAX_TASK_WAIT_S))
            task = await _answer(context, self._pool, self._port.get, request.task_id) if ended is None else ended
        return wire.task_to_message(task)

    async def CancelTask(self, request: task_pb2.CancelTaskRequest, context: Context) -> task_pb2.Task:
        return wire.task_to_message(await _answer(context, self._pool, self._port.cancel, request.task_id))

    def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def _ended(self, task_id: int, timeout_s: float) -> wire.TaskView | None:
        """The task once it has ended; None: it has not, within timeout_s."""
        ending: asyncio.Future[wire.TaskView] = asyncio.get_running_loop().create_future()
        self._awaited.setdefault(task_id, []).append(ending)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            return await asyncio.wait_for(ending, timeout_s)
        except TimeoutError:
            return None
        finally:  # also when the caller went away
            self._awaited[task_id].remove(ending)
            if not self._awaited[task_id]:
                del self._awaited[task_id]

    async def _look(self) -> None:
        """Look at all tasks that somebody waits for in one question, as long as there are any. An outage is waited for."""
        loop = asyncio.get_running_loop()
        while self._awaited:
            await asyncio.sleep(TASK_PERIOD_S)
            try:
                ended = await loop.run_in_executor(self._pool, self._port.ended, list(self._awaited))
            except ProtheonError:
                continue  # those who wait hear of it at the end of their time
            for task in ended:
                for ending in self._awaited.get(task.task_id, ()):
                    if not ending.done():
                        ending.set_result(task)


class _Chunks(chunk_pb2_grpc.ChunkServiceServicer):
    def __init__(
        self,
        port: ChunkPort,
        pins: PinPort | None,
        find_pool: ThreadPoolExecutor,
        read_pool: ThreadPoolExecutor,
        pin_pool: ThreadPoolExecutor,
        on_sent: Callable[[int, int], None] | None,
    ) -> None:
        self._port, self._pins, self._on_sent = port, pins, on_sent
        self._find_pool, self._read_pool, self._pin_pool = find_pool, read_pool, pin_pool

    async def Pin(self, request: chunk_pb2.PinRequest, context: Context) -> None:  # type: ignore[override]  # as Watch
        pins = await self._pinning(context)
        cutting = await _answer(context, self._pin_pool, pins.pin, pin_wire.pin_from_message(request))
        try:
            await self._send_pinned(cutting, context)
        except ProtheonError as error:  # not in there: this waits behind what the client has not read
            await _abort(context, error)

    async def _send_pinned(self, cutting: PinCutting, context: Context) -> None:
        loop = asyncio.get_running_loop()
        try:
            while (chunk := await loop.run_in_executor(self._pin_pool, cutting.next)) is not None:
                if chunk == "later":
                    await asyncio.sleep(TURN_PERIOD_S)  # not in a thread: all of them waiting, who has the turn would find none
                else:
                    await _write(context, pin_wire.pinned_to_message(chunk))
        finally:  # also when the client went away
            cutting.stop()
            await asyncio.shield(loop.run_in_executor(self._pin_pool, cutting.close))

    async def RenewPin(self, request: chunk_pb2.RenewPinRequest, context: Context) -> chunk_pb2.RenewPinResponse:
        pins = await self._pinning(context)
        await _answer(context, self._find_pool, pins.renew, request.pin_id, request.ttl_s)
        return pin_wire.renewed_message()

    async def Unpin(self, request: chunk_pb2.UnpinRequest, context: Context) -> chunk_pb2.UnpinResponse:
        pins = await self._pinning(context)
        await _answer(context, self._find_pool, pins.unpin, request.pin_id)
        return pin_wire.unpinned_message()

    async def _pinning(self, context: Context) -> PinPort:
        if self._pins is None:
            await _abort(context, ConfigError("this broker keeps no chunks but those of runs"))
        return self._pins

    async def ReadChunk(self, request: chunk_pb2.ReadChunkRequest, context: Context) -> None:  # type: ignore[override]  # as Watch
        asked = wire.read_from_message(request)
        if asked.pin_id:
            pins = await self._pinning(context)
            stored = await _answer(context, self._find_pool, pins.locate, asked.pin_id, asked.chunk_id, asked.generation)
        else:
            stored = await _answer(context, self._find_pool, self._port.locate, asked.chunk_id, asked.generation)
        try:
            await self._send(asked, stored, context)
        except ProtheonError as error:
            await _abort(context, error)

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
                await context.write(wire.piece_to_message(offset_bytes, data))
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


async def _answer(context: Context, pool: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call function in a thread of pool; its ProtheonError ends the call with that error's status.

    Anything else that it raises is a defect: grpc logs it with its traceback, and the client gets UNKNOWN.
    """
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(function, *args, **kwargs))
    except ProtheonError as error:
        await _abort(context, error)


async def _write(context: Context, message: object) -> None:
    """Write a message of a call that holds what others need. Raises: BrokerUnavailable: its client does not read."""
    try:
        async with asyncio.timeout(READER_S):
            await context.write(message)
    except TimeoutError as error:
        raise BrokerUnavailable(f"nothing was read here for {READER_S:g} s, and others wait: ask again") from error


async def _abort(context: Context, error: ProtheonError) -> NoReturn:
    code, details, metadata = wire.error_to_status(error)
    await context.abort(code, details, metadata)
