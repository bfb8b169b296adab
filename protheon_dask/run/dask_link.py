"""The coordinator's side of Dask: hands over dispatches, and turns what Dask says into events."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures import Future as ConcurrentFuture
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from dask._task_spec import Task
from dask.delayed import Delayed
from distributed import Client, Future, WorkerPlugin, fire_and_forget
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker
from tornado.ioloop import IOLoop

from protheon_dask.broker.tls import TlsFiles
from protheon_dask.model import Dispatch
from protheon_dask.run.doing import METRIC
from protheon_dask.run.lives import COORDINATOR
from protheon_dask.run.tasks import CANCELLED, HOST_METRIC, RAISED, STARTUP_KEY, Answer, run_attempt
from protheon_dask.run.trust.dask_tls import Renewed
from protheon_dask.run.trust.identity import dask_security
from protheon_dask.telemetry.workers import Report

logger = logging.getLogger(__name__)

CONNECT_S = 2.0
"""How long one try to connect may take. Short: Dask's own pauses within one grow, and a scheduler may be back before they end."""
ANSWER_S = CONNECT_S + 2.0
"""A scheduler that has not answered by now is frozen: longer than CONNECT_S, so that Dask's own words are heard first."""
ASK_S, ASK_AGAIN_S = 2.0, 0.25
"""Period of asking a scheduler that is well, and one that is not or has no workers yet."""
CLOSE_S = 2.0
PRIORITY = 100
"""Chunks of runs go before tasks of people, which have 0 unless they say otherwise (``compute(priority=..)``): loading is the work."""
LOST = f"{CANCELLED}the connection to the scheduler was lost"
"""The link's own word for a dispatch of which no scheduler will tell."""
MAX_LATE = 2
"""So many tries to connect may be unfinished, each a thread and half a client; another only when one of them ends. More than one, lest
one that hangs in Dask for ever should keep out all others."""
NANNY_PROBE_S = 1.0
NANNY_DYING_S = 0.4
"""Pause before a nanny that answered is asked again. Where all of a host's processes are killed at once the worker may be gone first."""
RESTART_S = 30.0
"""How long a nanny is given to end its worker: it asks politely for 4 s, then kills."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Dask answered: word is what run_attempt returned, or what happened to the key. A hint to look at the ledger."""

    dispatch: Dispatch
    word: str
    host: str | None = None  # of the process that returned it; None: Dask's own answer


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """The scheduler removed the process that had the key. nanny_lives: the process died alone."""

    dispatch: Dispatch
    worker: str
    nanny_lives: bool


DaskEvent = Answered | WorkerGone


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker process as the scheduler knows it. process_uuid is None where it was started without our preload, or with a strange one."""

    address: str
    name: str
    host: str
    process_uuid: UUID | None
    n_threads: int


@dataclass(frozen=True, slots=True)
class SchedulerSeen:
    """What the scheduler told last of itself and of its workers, for telemetry."""

    trouble: str | None = None  # why it does not answer; None: it does
    trouble_since_at: float = 0.0  # seconds of the epoch
    workers: tuple[Report, ...] = ()  # as it told them when it answered last; none of a scheduler that is gone
    asked_no: int = 0  # so often has it answered: the same number, the same answer


@dataclass(frozen=True, slots=True)
class _Handed:
    """A dispatch that Dask has, and the future that keeps its key alive."""

    item: Dispatch
    future: Future[Answer]


class LinkClient(Client):
    """Dask's client, whose memory may be taken back on any thread."""

    def __del__(self) -> None:
        """Close nothing: Dask's own waits for a loop and for the lock of all loops, wherever the collector happens to run.

        A thread that has that lock would wait for itself, and no client could be made in this process any more.
        """


class _Loop:
    """An event loop on a thread of its own, for all clients of a link: the one that Dask makes for each is left where it cannot connect."""

    def __init__(self) -> None:
        started: ConcurrentFuture[tuple[IOLoop, asyncio.Event]] = ConcurrentFuture()

        async def run() -> None:
            over = asyncio.Event()
            started.set_result((IOLoop.current(), over))
            await over.wait()

        threading.Thread(target=lambda: asyncio.run(run()), name="dask-loop", daemon=True).start()
        self.loop, self._over = started.result()

    def end(self) -> None:
        """What still waits for an answer there gets an error."""
        self.loop.add_callback(self._over.set)


class DaskLink:
    """One client, made anew whenever its connection is lost, and a thread that asks the scheduler whether it is well.

    Thread-safe. on_event and on_change are called on other threads: this one's and Dask's.
    Guarantee: no call waits for the scheduler. Each dispatch that was handed over is answered once: at the latest when the connection
               to the scheduler that had it is lost. A frozen one may still thaw, and answers then.
    """

    def __init__(
        self,
        scheduler_address: str,
        on_event: Callable[[DaskEvent], None],
        on_change: Callable[[], object] = lambda: None,
        tls: TlsFiles | None = None,
        guest: WorkerPlugin | None = None,
    ) -> None:
        """tls: of this host; None: plaintext. guest: registered with the scheduler, for workers that were started without our preload."""
        self.scheduler_address = scheduler_address
        self._on_event, self._on_change, self._tls = on_event, on_change, tls
        self._guest = guest
        self._renewed: Renewed | None = None  # of the client that is there now
        self._lock = threading.Lock()  # of the fields below; held for no call that waits
        self._client: Client | None = None
        self._handed: dict[str, _Handed] = {}
        self._workers: tuple[WorkerSeen, ...] = ()
        self._trouble = "it was not asked yet"  # empty: it is well
        self._trouble_since_at = time.time()
        self._reports: tuple[Report, ...] = ()
        self._asked_no = 0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: _Loop | None = None
        self._late: list[ConcurrentFuture[Client]] = []  # of the link's thread: tries that were given up and have not ended

    def workers(self) -> tuple[WorkerSeen, ...]:
        """The worker processes, as the scheduler told last. Raises OSError while it does not answer."""
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._loop = _Loop()
                self._thread = threading.Thread(target=self._keep, name="dask-link", daemon=True)
                self._thread.start()
            self._check()
            return self._workers

    def seen(self) -> SchedulerSeen:
        """What the scheduler told last, or why it does not answer."""
        with self._lock:
            trouble = self._trouble or None
            if trouble is None and (self._client is None or self._client.status != "running"):
                trouble = "the connection to it closed just now"
            return SchedulerSeen(trouble, self._trouble_since_at if self._trouble else time.time(), self._reports, self._asked_no)

    def call(self, handler: str, timeout_s: float, **arguments: Any) -> Any:
        """Call a handler of the scheduler's that is our plugin's, with msgpack's types, and wait for its answer.

        Raises: OSError: it does not answer, or not in timeout_s. What the handler raises, as Dask brings it.
        """
        with self._lock:
            client = self._check()
        try:
            return client.sync(getattr(client.scheduler, handler), **arguments, callback_timeout=timeout_s)  # type: ignore[no-untyped-call]  # distributed is not typed here
        except TimeoutError as exc:
            raise TimeoutError(f"{self.scheduler_address} has not answered {handler} for {timeout_s:g} s") from exc

    def dispatch(self, dispatches: Sequence[Dispatch], workers: Sequence[str] | None = None) -> None:
        """Hand attempts to Dask, each once, under fresh opaque keys. Raises OSError while the scheduler does not answer.

        workers: addresses of those that may take them; any other may once all of these are gone. None: any; only then do they wait
                 at the scheduler until a worker is free.
        """
        tasks = [_delayed(item) for item in dispatches]
        wanted = None if workers is None else list(workers)
        with self._lock:
            client = self._check()
            futures = client.compute(  # type: ignore[no-untyped-call]  # distributed is not typed here
                tasks, retries=0, priority=PRIORITY, optimize_graph=False, workers=wanted, allow_other_workers=wanted is not None
            )
            for item, future in zip(dispatches, futures, strict=True):
                self._handed[str(future.key)] = _Handed(item, future)
            # else the keys go with a broker that dies, and the scheduler takes a worker that is at work for idle: new work waits behind it
            fire_and_forget(futures)  # type: ignore[no-untyped-call]  # as above
        for future in futures:
            future.add_done_callback(self._answer)

    def restart(self, worker: WorkerSeen) -> None:
        """Have a worker process ended and started anew by its nanny, which may be frozen itself: on a thread of its own."""
        with self._lock:
            client = self._client
        if client is not None:
            threading.Thread(target=_restart, args=(client, worker), name="dask-restart", daemon=True).start()

    def close(self) -> None:
        """Forget all dispatches; what runs on workers runs on, and the ledger will tell."""
        self._closing.set()
        with self._lock:
            client, self._client = self._client, None
            self._handed.clear()
            loop, self._loop = self._loop, None
        if client is not None:
            _close(client)
        if loop is not None:
            loop.end()

    def _check(self) -> Client:
        if self._client is None or self._trouble:
            raise OSError(self._trouble or "the connection to it closed just now")
        if self._client.status != "running":
            raise OSError("the connection to it closed just now")
        return self._client

    # --- the link's thread ----------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Connect, ask, and connect anew, until close()."""
        while not self._closing.is_set():
            try:
                client = self._client or self._connect()
                if client is None:
                    return
                (workers, reports), trouble = self._ask(client), ""
            except OSError as exc:
                workers, reports, trouble = self._workers, None, str(exc) or type(exc).__name__
            except Exception as exc:  # an answer that nobody foresaw: without this thread nobody would ask again, nor say so
                workers, reports, trouble = self._workers, None, f"{type(exc).__name__}: {exc}"
                if trouble != self._trouble:
                    logger.exception("scheduler.misunderstood")
            if self._client is not None and self._client.status != "running":
                self._lose(trouble or "the connection to it closed")
                continue
            is_news = (workers, trouble) != (self._workers, self._trouble)
            if trouble and not self._trouble:
                logger.warning("scheduler.lost", extra={"error": trouble})
            with self._lock:
                if trouble and not self._trouble:
                    self._trouble_since_at = time.time()
                self._workers, self._trouble = workers, trouble
                if reports is not None:
                    self._reports, self._asked_no = reports, self._asked_no + 1
            if is_news:
                self._on_change()
            self._closing.wait(ASK_S if workers and not trouble else ASK_AGAIN_S)

    def _connect(self) -> Client | None:
        """A new client, as soon as there is a scheduler; None: this link is closed meanwhile. Raises OSError: there is none now."""
        # on a thread that is left where a scheduler freezes in the midst of it: Dask waits for ever then
        if len(self._late) >= MAX_LATE:
            wait(self._late, ANSWER_S, return_when=FIRST_COMPLETED)
            self._late = [making for making in self._late if not making.done()]
            if len(self._late) >= MAX_LATE:
                raise TimeoutError(f"{self.scheduler_address} has made no client yet")
        with self._lock:
            if self._loop is None:
                return None
            loop = self._loop.loop
        making: ConcurrentFuture[Client] = ConcurrentFuture()
        threading.Thread(
            target=_make_client, args=(self.scheduler_address, loop, self._tls, self._guest, making), name="dask-client", daemon=True
        ).start()
        if not wait([making], ANSWER_S).done:
            making.add_done_callback(_close_late)
            self._late.append(making)
            raise TimeoutError(f"{self.scheduler_address} made no client in {ANSWER_S:g} s")
        client = making.result()
        self._renewed = None if self._tls is None else Renewed(self._tls)
        with self._lock:
            if not self._closing.is_set():
                self._client = client
                return client
        _close(client)
        return None

    def _ask(self, client: Client) -> tuple[tuple[WorkerSeen, ...], tuple[Report, ...]]:
        if client.scheduler is None:
            raise OSError("the connection to it closed just now")
        if self._renewed is not None:
            self._renewed.look(client)
        # client.scheduler_info() asks the same, and waits for ever
        try:
            told: dict[str, Any] = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=ANSWER_S)  # type: ignore[no-untyped-call]  # as above
        except TimeoutError as exc:
            raise TimeoutError(f"{self.scheduler_address} has said nothing for {ANSWER_S:g} s") from exc
        seen = tuple(_seen(address, worker) for address, worker in told["workers"].items())
        now_at = time.time()
        reports = (
            Report.of(it.name, it.host, str(it.process_uuid or it.address), now_at - worker["last_seen"], worker["metrics"].get(METRIC))
            for it, worker in zip(seen, told["workers"].values(), strict=True)
        )
        return seen, tuple(reports)

    def _lose(self, trouble: str) -> None:
        """The scheduler is gone with all that it had: answer for it, and let go of the client, whose own tries are ever rarer."""
        logger.warning("scheduler.lost", extra={"error": trouble})
        with self._lock:
            client, self._client = self._client, None
            handed, self._handed = self._handed, {}
            if not self._trouble:
                self._trouble_since_at = time.time()
            self._workers, self._reports, self._trouble = (), (), trouble
            self._asked_no += 1
        for lost in handed.values():
            self._on_event(Answered(lost.item, LOST))
        self._on_change()
        if client is not None:
            _close(client)

    def _answer(self, future: Future[Answer]) -> None:
        """Called on a thread of Dask's for each future that ended."""
        with self._lock:
            handed = self._handed.pop(str(future.key), None)
        if handed is None:  # it was answered for, or this link is closed
            return
        item = handed.item
        try:
            answer = future.result(timeout=CONNECT_S)
            event = Answered(item, answer.word, answer.host)
        except KilledWorker as exc:
            # a host that is off the network lets each of its nannies' probes time out: all other answers would wait behind them
            threading.Thread(target=self._tell_gone, args=(item, exc.last_worker), name="dask-gone", daemon=True).start()
            return
        except FutureCancelledError as exc:
            event = Answered(item, f"{CANCELLED}{exc.reason}")
        except Exception as exc:  # whatever run_attempt raised: the ledger knows what became of the attempt
            logger.exception("dispatch.raised", extra={"task_id": item.task_id})
            event = Answered(item, f"{RAISED}{type(exc).__name__}: {exc}")
        finally:
            future.release()  # type: ignore[no-untyped-call]  # distributed is not typed here
        self._on_event(event)

    def _tell_gone(self, item: Dispatch, last: Any) -> None:
        nanny = getattr(last, "nanny", None)
        nanny_lives = _answers(nanny)
        if nanny_lives and not self._closing.wait(NANNY_DYING_S):
            nanny_lives = _answers(nanny)
        self._on_event(WorkerGone(item, str(last.name), nanny_lives))


def _make_client(
    scheduler_address: str, loop: IOLoop, tls: TlsFiles | None, guest: WorkerPlugin | None, answer: ConcurrentFuture[Client]
) -> None:
    try:
        client = LinkClient(  # type: ignore[no-untyped-call]  # distributed is not typed here
            scheduler_address, loop=loop, set_as_default=False, timeout=CONNECT_S, name=COORDINATOR, security=dask_security(tls)
        )
        if guest is not None:
            client.register_plugin(guest)
        answer.set_result(client)
    except Exception as exc:  # noqa: BLE001  # raised again in the link's thread
        answer.set_exception(exc if isinstance(exc, OSError) else OSError(f"{type(exc).__name__}: {exc}"))


def _seen(address: str, worker: Mapping[str, Any]) -> WorkerSeen:
    """What it says of itself that is not understood, of another version or program, is as if it said nothing: nothing raises."""
    host, process_uuid = str(worker["host"]), None
    with suppress(KeyError, TypeError):
        host = str(worker["metrics"][HOST_METRIC])
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        ours = worker[STARTUP_KEY]
        process_uuid = UUID(ours["process_uuid"])
        host = str(ours["host"])
    return WorkerSeen(address, str(worker["name"]), host, process_uuid, worker["nthreads"])


def _restart(client: Client, worker: WorkerSeen) -> None:
    try:
        answer = client.restart_workers([worker.address], timeout=RESTART_S, raise_for_error=False)
        logger.warning("worker.restarted", extra={"worker": worker.name, "host": worker.host, "answer": str(answer[worker.address])})
    except Exception:  # it is gone by itself, or nobody answers there: the ledger needs nothing of it
        logger.warning("worker.restart_failed", extra={"worker": worker.name, "host": worker.host}, exc_info=True)


def _close(client: Client) -> None:
    """Let go of a client, whatever its scheduler does. It may be busy with connecting anew."""
    try:
        client.close(timeout=CLOSE_S)  # type: ignore[no-untyped-call]  # distributed is not typed here
    except Exception:  # what is left of it is Dask's; ours is not touched by it
        logger.warning("scheduler.client_left", exc_info=True)


def _close_late(made: ConcurrentFuture[Client]) -> None:
    """A client that was made too late: another was made, or is tried for."""
    if made.exception() is None:
        _close(made.result())


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
