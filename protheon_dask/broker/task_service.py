"""TaskService: the general queue over gRPC."""

from __future__ import annotations

# ruff: noqa: N802  # the methods of a service are named by the .proto
import asyncio
from typing import Final

from protheon_dask.broker import wire
from protheon_dask.broker._pb import task_pb2, task_pb2_grpc
from protheon_dask.broker.calls import Context, Pool, abort
from protheon_dask.broker.ports import TaskPort
from protheon_dask.errors import ConfigError, ProtheonError

TASK_SERVICE: Final = task_pb2.DESCRIPTOR.services_by_name["TaskService"].full_name
TASK_PERIOD_S = 0.25
"""How often the tasks that somebody waits for are looked at, all in one question."""
MAX_TASK_WAIT_S = 60.0
"""Longest WaitTask, and the one that is asked for without a time."""


class TaskService(task_pb2_grpc.TaskServiceServicer):
    def __init__(self, port: TaskPort, pool: Pool) -> None:
        self._port, self._pool = port, pool
        self._awaited: dict[int, list[asyncio.Future[wire.TaskView]]] = {}  # by task, one a caller
        self._looking: asyncio.Task[None] | None = None

    async def SubmitTask(self, request: task_pb2.SubmitTaskRequest, context: Context) -> task_pb2.Task:
        submission = wire.task_submission_from_message(request)
        return wire.task_to_message(await self._pool.answer(context, self._port.submit, submission))

    async def GetTask(self, request: task_pb2.GetTaskRequest, context: Context) -> task_pb2.Task:
        return wire.task_to_message(await self._pool.answer(context, self._port.get, request.task_id))

    async def WaitTask(self, request: task_pb2.WaitTaskRequest, context: Context) -> task_pb2.Task:
        if not request.timeout_s >= 0:  # not a number is refused as well
            await abort(context, ConfigError(f"timeout_s={request.timeout_s:g}: wait 0 (as long as possible) to {MAX_TASK_WAIT_S:g} s"))
        task = await self._pool.answer(context, self._port.get, request.task_id)
        if not task.is_ended:
            ended = await self._ended(task.task_id, min(request.timeout_s or MAX_TASK_WAIT_S, MAX_TASK_WAIT_S))
            task = await self._pool.answer(context, self._port.get, request.task_id) if ended is None else ended
        return wire.task_to_message(task)

    async def CancelTask(self, request: task_pb2.CancelTaskRequest, context: Context) -> task_pb2.Task:
        return wire.task_to_message(await self._pool.answer(context, self._port.cancel, request.task_id))

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
        while self._awaited:
            await asyncio.sleep(TASK_PERIOD_S)
            try:
                ended = await self._pool.run(self._port.ended, list(self._awaited))
            except ProtheonError:
                continue  # those who wait hear of it at the end of their time
            for task in ended:
                for ending in self._awaited.get(task.task_id, ()):
                    if not ending.done():
                        ending.set_result(task)
