"""RunService: runs and reports over gRPC."""

from __future__ import annotations

# ruff: noqa: N802  # the methods of a service are named by the .proto
import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from protheon_dask.broker import wire
from protheon_dask.broker._pb import run_pb2, run_pb2_grpc
from protheon_dask.broker.calls import Context, Pool, Shares, abort, write
from protheon_dask.broker.peers import peer_of
from protheon_dask.broker.ports import RunPort
from protheon_dask.errors import ProtheonError

RUN_SERVICE: Final = run_pb2.DESCRIPTOR.services_by_name["RunService"].full_name
WATCH_PERIOD_S = 0.5
"""How often a watched run is looked at."""
REPORTS = 4
"""Reports that are read at a time, each with a connection to PostgreSQL and a transaction; more of them wait."""
REPORT_SHARE = REPORTS // 2
"""Those of one party: whoever reads slowly holds up himself."""


class RunService(run_pb2_grpc.RunServiceServicer):
    def __init__(self, port: RunPort, pool: Pool, report_pool: ThreadPoolExecutor) -> None:
        self._port, self._pool, self._report_pool = port, pool, report_pool
        self._reporting, self._shares = asyncio.Semaphore(REPORTS), Shares(REPORT_SHARE)

    async def Submit(self, request: run_pb2.SubmitRequest, context: Context) -> run_pb2.SubmitResponse:
        submission = wire.submission_from_message(request)
        return wire.submitted_to_message(await self._pool.answer(context, self._port.submit, submission, peer_of(context)))

    async def Get(self, request: run_pb2.GetRequest, context: Context) -> run_pb2.Run:
        return wire.run_to_message(await self._pool.answer(context, self._port.get, request.run_id))

    async def List(self, request: run_pb2.ListRequest, context: Context) -> run_pb2.ListResponse:
        return wire.runs_to_message(await self._pool.answer(context, self._port.list, request.limit))

    async def Watch(self, request: run_pb2.WatchRequest, context: Context) -> None:  # type: ignore[override]  # writes, yields nothing
        run_id, last = request.run_id, None
        while True:
            view = await self._pool.answer(context, self._port.get, run_id)
            run_id = view.run_id  # 0 named the latest run: stay with it
            if view != last:
                await context.write(wire.run_to_message(view))
                last = view
            if view.is_settled:
                return
            await asyncio.sleep(WATCH_PERIOD_S)

    async def Cancel(self, request: run_pb2.CancelRequest, context: Context) -> run_pb2.Run:
        return wire.run_to_message(await self._pool.answer(context, self._port.cancel, request.run_id))

    async def Pause(self, request: run_pb2.PauseRequest, context: Context) -> run_pb2.Run:
        return wire.run_to_message(await self._pool.answer(context, self._port.pause, request.run_id, request.reason))

    async def Resume(self, request: run_pb2.ResumeRequest, context: Context) -> run_pb2.Run:
        return wire.run_to_message(await self._pool.answer(context, self._port.resume, wire.resumption_from_message(request)))

    async def Replay(self, request: run_pb2.ReplayRequest, context: Context) -> run_pb2.SubmitResponse:
        return wire.submitted_to_message(await self._pool.answer(context, self._port.replay, wire.replay_from_message(request)))

    async def Undo(self, request: run_pb2.UndoRequest, context: Context) -> run_pb2.UndoResponse:
        return wire.undone_to_message(await self._pool.answer(context, self._port.undo, request.load_id))

    async def ReplayDeadLetters(self, request: run_pb2.DeadLettersRequest, context: Context) -> run_pb2.DeadLettersResponse:
        choice = wire.choice_from_message(request)
        return wire.letters_to_message(await self._pool.answer(context, self._port.replay_dead_letters, choice))

    async def PurgeDeadLetters(self, request: run_pb2.DeadLettersRequest, context: Context) -> run_pb2.DeadLettersResponse:
        choice = wire.choice_from_message(request)
        return wire.letters_to_message(await self._pool.answer(context, self._port.purge_dead_letters, choice))

    async def Report(self, request: run_pb2.ReportRequest, context: Context) -> None:  # type: ignore[override]  # as Watch
        try:
            async with self._shares.turn(peer_of(context).party), self._reporting:
                await self._send_report(wire.report_from_message(request), context)
        except ProtheonError as error:  # not in there: this waits behind what the client has not read
            await abort(context, error)

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
                await write(context, wire.page_to_message(page))
                ahead = make_next()
        finally:  # also when the client went away; nobody gets this place before its transaction has ended
            await asyncio.shield(close())

    async def Info(self, request: run_pb2.InfoRequest, context: Context) -> run_pb2.InfoResponse:  # noqa: ARG002  # the service's shape
        return wire.info_to_message(await self._pool.answer(context, self._port.info))
