"""The coordinator's side of Dask: hands over dispatches, and turns what Dask says into events."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future as ConcurrentFuture
from concurrent.futures import wait
from dataclasses import dataclass
from urllib.parse import urlsplit

from dask._task_spec import Task
from dask.delayed import Delayed
from distributed import Client, Future
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from protheon_dask.model import Dispatch
from protheon_dask.run.tasks import RAISED, run_attempt

logger = logging.getLogger(__name__)

CONNECT_S = 10.0
ANSWER_S = CONNECT_S + 2.0
"""A scheduler that has not answered by now is frozen: longer than CONNECT_S, so that Dask's own words are heard first."""
RECONNECT_S = 60.0
"""How long a client outlives its scheduler before it is made anew."""
NANNY_PROBE_S = 1.0


@dataclass(frozen=True, slots=True)
class Answered:
    """Dask answered: word is what run_attempt returned, or what happened to the key. A hint to look at the ledger."""

    dispatch: Dispatch
    word: str


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """The scheduler removed the process that had the key. nanny_lives: the process died alone."""

    dispatch: Dispatch
    worker: str
    nanny_lives: bool


DaskEvent = Answered | WorkerGone


class DaskLink:
    """One client, made anew when it has closed. Not thread-safe but for on_event, which is called on threads of Dask's."""

    def __init__(self, scheduler_address: str, on_event: Callable[[DaskEvent], None]) -> None:
        self.scheduler_address = scheduler_address
        self._on_event = on_event
        self._client: Client | None = None
        self._making: ConcurrentFuture[Client] | None = None
        self._futures: dict[str, Future[str]] = {}

    def dispatch(self, dispatches: Sequence[Dispatch]) -> None:
        """Hand attempts to Dask, each once, under fresh opaque keys. Raises OSError while there is no scheduler."""
        client = self._connected()
        futures = client.compute([_delayed(item) for item in dispatches], retries=0, optimize_graph=False)  # type: ignore[no-untyped-call]  # distributed is not typed here
        for item, future in zip(dispatches, futures, strict=True):
            self._futures[str(future.key)] = future
            future.add_done_callback(lambda done, item=item: self._answer(item, done))

    def n_threads(self) -> int:
        """Task threads of all workers. Raises OSError while there is no scheduler; TimeoutError, which is one, while it is frozen."""
        client = self._connected()
        if client.scheduler is None:
            raise OSError("the connection to the scheduler closed just now")
        # client.nthreads() asks the same, and waits for ever
        counts: dict[str, int] = client.sync(client.scheduler.ncores, workers=None, callback_timeout=ANSWER_S)  # type: ignore[no-untyped-call]  # as above
        return sum(counts.values())

    def close(self) -> None:
        """Forget all futures; what runs on workers runs on, and the ledger will tell."""
        self._futures.clear()
        if self._client is not None:
            self._client.close(timeout=2)  # type: ignore[no-untyped-call]  # distributed is not typed here
        self._client = None

    def _connected(self) -> Client:
        if self._client is not None and self._client.status in ("closed", "closing"):
            self.close()
        if self._client is None:
            self._client = self._made()
        return self._client

    def _made(self) -> Client:
        """A new client. A scheduler that froze in the midst of it is waited for on a thread that is left; there is one at a time.

        Raises: OSError: there is no scheduler. TimeoutError: it does not answer; the client that is being made is asked for again.
        """
        if self._making is None:
            self._making = ConcurrentFuture()
            threading.Thread(target=_make_client, args=(self.scheduler_address, self._making), name="dask-client", daemon=True).start()
        if not wait([self._making], ANSWER_S).done:
            raise TimeoutError(f"{self.scheduler_address} made no client in {ANSWER_S:g} s")
        made, self._making = self._making, None
        return made.result()

    def _answer(self, item: Dispatch, future: Future[str]) -> None:
        self._futures.pop(str(future.key), None)
        try:
            event: DaskEvent = Answered(item, str(future.result(timeout=CONNECT_S)))
        except KilledWorker as exc:
            last = exc.last_worker
            event = WorkerGone(item, str(last.name), _answers(getattr(last, "nanny", None)))
        except FutureCancelledError as exc:
            event = Answered(item, f"cancelled: {exc.reason}")
        except Exception as exc:  # whatever run_attempt raised: the ledger knows what became of the attempt
            logger.exception("dispatch.raised", extra={"task_id": item.task_id})
            event = Answered(item, f"{RAISED}{type(exc).__name__}: {exc}")
        finally:
            future.release()  # type: ignore[no-untyped-call]  # distributed is not typed here
        self._on_event(event)


def _make_client(scheduler_address: str, answer: ConcurrentFuture[Client]) -> None:
    try:
        client = Client(scheduler_address, set_as_default=False, timeout=CONNECT_S, name="protheon-coordinator")  # type: ignore[no-untyped-call]  # distributed is not typed here
        client._timeout = RECONNECT_S
        answer.set_result(client)
    except Exception as exc:  # noqa: BLE001  # raised again in the coordinator's thread
        answer.set_exception(exc)


def _delayed(item: Dispatch) -> Delayed:
    """A call of run_attempt under a fresh opaque key that waits with the scheduler until a worker is free.

    What delayed() makes is queued only where many others are waiting; a few go to busy workers at once, where a frozen one keeps them
    until it is given up for dead (30 to 60 s, measured). Dask queues every task that is marked as a producer of data.
    """
    key = f"chunk-{time.time_ns():016x}{secrets.token_hex(8)}"  # in order of time: Dask breaks ties by key
    return Delayed(key, {key: Task(key, run_attempt, item, _data_producer=True)})  # type: ignore[no-untyped-call]  # dask is not typed here


def _answers(nanny_address: str | None) -> bool:
    """Does a nanny's port accept connections? Then host and nanny live and the process died alone."""
    if not nanny_address:
        return False
    place = urlsplit(nanny_address)
    try:
        with socket.create_connection((place.hostname, place.port), timeout=NANNY_PROBE_S):
            return True
    except OSError:
        return False
