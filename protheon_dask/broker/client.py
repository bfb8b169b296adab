"""The gRPC client of workers, notebooks and commands: sync, thread-safe, one channel a process and address.

No error of gRPC leaves it: what the server raised is raised again, and an outage is BrokerUnavailable.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from threading import Lock
from typing import Final, Self, TypeVar, assert_never

import grpc

from protheon_dask import __version__
from protheon_dask.broker import cluster_wire, pin_wire, wire
from protheon_dask.broker._pb import chunk_pb2_grpc, cluster_pb2_grpc, run_pb2_grpc, task_pb2_grpc
from protheon_dask.broker.chunks import (
    ChunkAssembler,
    ChunkSink,
    PinnedChunk,
    Resume,
    StartOver,
    Stop,
    Tries,
    WantedChunk,
    after_break,
)
from protheon_dask.broker.reach import SILENT, joined_elsewhere, refusal
from protheon_dask.broker.tls import MASTER_NAME, TlsFiles, channel_credentials
from protheon_dask.errors import BrokerBusy, BrokerUnavailable, ConfigError, ProtheonError

M = TypeVar("M")

OPTIONS: Final = (
    # measured, PITFALLS 8: with these a frozen server is noticed after 12 s and a quiet stream lives; keepalive_timeout_ms
    # alone does nothing in grpcio 1.85
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    # a fixed window: one that follows the bandwidth holds up to 17 MiB of a chunk in memory (measured on loopback)
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
CALL_S = 10.0
"""Deadline of a call that the ledger answers at once."""
SUBMIT_S = 300.0
"""Deadline of a submission: the master resolves its paths and may read the heads of thousands of sources."""
PIN_S = 24 * 3_600.0
"""Deadline of pinning: sources are cut, which may take hours; the stream speaks with each chunk, and pings find a server that is gone."""
SUBMIT_TASK_S = 40.0
"""Deadline of submitting a task: the master may import its module first, to see that the function is one."""
REPORT_S = 24 * 3_600.0
"""Deadline of a report: a deep verification reads whole tables. Pings find a server that is gone."""
UNDO_S = 24 * 3_600.0
"""Deadline of deleting a load's rows: it may read whole tables, and goes on where it was when it is asked again."""
ECHO_S = 60.0
"""Deadline of an echo: 64 MiB at 9 Mbit/s."""
BUSY_S = 0.5
"""Pause before a stream is asked for again that the broker had no place for."""
REACH_S = 5.0
"""Period in which it is looked once why a broker that is there does not answer."""
NOT_LOOKED: Final = "no answer yet"
BROKE_OFF: Final = "it broke the connection off: it is ending, or starting again"
"""Said of one that can be reached when it is looked at."""
STREAM_S = 60.0
"""Deadline of one stream: it is then opened again where it was, so that a server stuck without a broken line is left too."""


class BrokerClient:
    """Calls the broker at address (``host:port``). Thread-safe; connects at the first call; a context manager.

    tls: shown to the broker, which must show one of the same authority; None: plaintext.
    Raises (each method): ConfigError: it was closed, before the call or while it went on.
    Guarantee: every call has a deadline.
    """

    def __init__(self, address: str, tls: TlsFiles | None = None) -> None:
        self.address, self._tls = address, tls
        self._lock = Lock()
        self._channel: grpc.Channel | None = None
        self._stamp = (0, 0)  # of the certificate that the channel shows
        self._older: grpc.Channel | None = None  # shows the certificate before: streams that began on it end there
        self._is_closed = False
        self._reached_at = -math.inf  # when it was looked last why it does not answer (monotonic), and what was found
        self._found: ConfigError | str = NOT_LOOKED

    def fetch_chunk(
        self,
        wanted: WantedChunk,
        sink: ChunkSink,
        *,
        deadline_s: float,
        wait: Callable[[float], object] = time.sleep,
        on_bytes: Callable[[int], object] | None = None,
    ) -> int:
        """Write a chunk's stored bytes to the empty sink, through broken streams, and return the bytes that were received.

        wait:     called with the seconds until the next try; what it raises ends the fetch (a lease that is lost).
        on_bytes: called with the size of each message: progress. What it raises ends the fetch, too.
        Units:    deadline_s is for the whole fetch, waits included; the result counts refetched bytes again.
        Raises:   BrokerUnavailable, ChunkUnavailable, ChunkGap: not whole by the deadline; ChecksumMismatch: wrong twice;
                  ChunkOutdated: read the manifest again; NotFound. The sink's bytes are worthless then.
        Guarantee: on return the sink holds exactly the manifest's bytes, by size and checksum. Memory: gRPC's window, which
                  follows the link's bandwidth (5 to 17 MiB were seen).
        """
        end_at = time.monotonic() + deadline_s
        assembler, tries, wire_bytes = ChunkAssembler(wanted), Tries(), 0
        while True:
            broken: ProtheonError | None = None
            with closing(self._pieces(wanted, assembler, min(STREAM_S, end_at - time.monotonic()))) as pieces:
                for piece in pieces:
                    if isinstance(piece, ProtheonError):
                        broken = piece
                        break
                    sink.write(piece)
                    wire_bytes += len(piece)
                    tries = tries.progressed()
                    if on_bytes is not None:
                        on_bytes(len(piece))
            if broken is None:
                return wire_bytes
            match after_break(broken, tries, end_at - time.monotonic()):
                case Resume(delay_s=delay_s, tries=tries):
                    wait(delay_s)
                case StartOver(tries=tries):
                    assembler = ChunkAssembler(wanted)
                    sink.seek(0)
                    sink.truncate(0)
                case Stop(error=error):
                    raise error
                case never:
                    assert_never(never)

    def pin(self, request: pin_wire.PinRequest, timeout_s: float = PIN_S) -> Generator[PinnedChunk]:
        """Yield the chunks of sources as they are cut for those who read them, and notices about what is left out.

        Raises:    ConfigError: a path or an option; WorkspaceFull; SourceUnavailable, BrokerUnavailable: ask again under the same
                   pin_id, it goes on where it was; all are yielded again.
        Guarantee: the chunks that were yielded stand until ttl_s after this ended. Closed early, the broker cuts no further.
        """
        message = pin_wire.pin_to_message(request)
        for pinned in self._stream(lambda left_s: self._chunks().Pin(message, timeout=left_s), timeout_s):
            yield pin_wire.pinned_from_message(pinned)

    def renew_pin(self, pin_id: str, ttl_s: float, timeout_s: float = CALL_S) -> None:
        """Keep a pin for ttl_s more; 0: let it go, though somebody may still be reading. Raises: NotFound; BrokerUnavailable."""
        with self._translated():
            self._chunks().RenewPin(pin_wire.renew_pin_message(pin_id, ttl_s), timeout=timeout_s)

    def unpin(self, pin_id: str, timeout_s: float = CALL_S) -> None:
        """Delete a pin's files; idempotent. Raises: BrokerUnavailable."""
        with self._translated():
            self._chunks().Unpin(pin_wire.unpin_message(pin_id), timeout=timeout_s)

    def submit(self, submission: wire.Submission, timeout_s: float | None = None) -> wire.Submitted:
        """Ask for a run. Raises: what the master refused it for; BrokerUnavailable: no answer. timeout_s: None is what it may take.

        Guarantee: with the same request_id it is safe to repeat: there is one run.
        """
        request = wire.submission_to_message(submission)
        if timeout_s is None:
            timeout_s = UNDO_S if submission.replace else SUBMIT_S
        with self._translated():
            return wire.submitted_from_message(self._runs().Submit(request, timeout=timeout_s))

    def get(self, run_id: int = 0, timeout_s: float = CALL_S) -> wire.RunView:
        """Return the run as it is now; 0 is the latest. Raises: NotFound; BrokerUnavailable."""
        with self._translated():
            return wire.run_from_message(self._runs().Get(wire.get_message(run_id), timeout=timeout_s))

    def list(self, limit: int = 20, timeout_s: float = CALL_S) -> tuple[wire.RunView, ...]:
        """Return the latest runs, newest first. Raises: BrokerUnavailable."""
        with self._translated():
            return wire.runs_from_message(self._runs().List(wire.list_message(limit), timeout=timeout_s))

    def watch(self, run_id: int = 0, end_at: float = math.inf) -> Generator[wire.RunView]:
        """Yield the run at once and whenever it changed (at most twice a second), last as ended or paused, or as it is at end_at.

        end_at: of the monotonic clock; the first word is waited for as long as get() waits.

        Raises: NotFound; BrokerUnavailable: the broker is away; watch again when it is back, nothing is missed but moments.
        """
        last: wire.RunView | None = None
        if end_at < math.inf:
            last = self.get(run_id)
            run_id = last.run_id
            yield last
        while last is None or not (last.is_settled or time.monotonic() >= end_at):
            was_heard = False
            with self._translated():
                call = self._runs().Watch(wire.watch_message(run_id), timeout=max(0.0, min(STREAM_S, end_at - time.monotonic())))
            try:
                for message in call:
                    was_heard = True
                    view = wire.run_from_message(message)
                    if view != last:
                        last, run_id = view, view.run_id  # 0 named the latest run: stay with it
                        yield view
                return
            except grpc.RpcError as error:
                is_over = was_heard or time.monotonic() >= end_at
                if not was_heard and isinstance(self._error_of(error), BrokerBusy):
                    time.sleep(BUSY_S)
                    continue
                if not (is_over and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise self._error_of(error) from error
            finally:  # also when the caller stops to listen
                call.cancel()  # type: ignore[no-untyped-call]  # the stubs forgot its None

    def cancel(self, run_id: int, timeout_s: float = CALL_S) -> wire.RunView:
        """Cancel a run and return it as it is then. Raises: NotFound; BrokerUnavailable."""
        with self._translated():
            return wire.run_from_message(self._runs().Cancel(wire.cancel_message(run_id), timeout=timeout_s))

    def pause(self, run_id: int, reason: str = "", timeout_s: float = CALL_S) -> wire.RunView:
        """Pause a run and return it as it is then; reason is for people. Raises: NotFound; BrokerUnavailable."""
        with self._translated():
            return wire.run_from_message(self._runs().Pause(wire.pause_message(run_id, reason), timeout=timeout_s))

    def resume(self, resumption: wire.Resumption, timeout_s: float = CALL_S) -> wire.RunView:
        """Go on with a paused run and return it as it is then. Raises: NotFound; BrokerUnavailable."""
        with self._translated():
            return wire.run_from_message(self._runs().Resume(wire.resumption_to_message(resumption), timeout=timeout_s))

    def replay(self, replay: wire.Replay, timeout_s: float = SUBMIT_S) -> wire.Submitted:
        """Send a run's rejects through a pipeline again, as a run of its own. Raises and guarantees as submit."""
        request = wire.replay_to_message(replay)
        with self._translated():
            return wire.submitted_from_message(self._runs().Replay(request, timeout=timeout_s))

    def undo(self, load_id: int, timeout_s: float = UNDO_S) -> wire.Undone:
        """Delete the rows of a load, however long that takes. Raises: ConfigError: why not; NotFound; BrokerUnavailable: ask again."""
        with self._translated():
            return wire.undone_from_message(self._runs().Undo(wire.undo_message(load_id), timeout=timeout_s))

    def replay_dead_letters(self, choice: wire.LetterChoice, timeout_s: float = SUBMIT_S) -> wire.DeadLetters:
        """Make dead tasks ready again. Raises: ConfigError: why not; NotFound; BrokerUnavailable: ask again, it is safe to repeat."""
        with self._translated():
            return wire.letters_from_message(self._runs().ReplayDeadLetters(wire.choice_to_message(choice), timeout=timeout_s))

    def purge_dead_letters(self, choice: wire.LetterChoice, timeout_s: float = SUBMIT_S) -> wire.DeadLetters:
        """Give dead tasks up for good. Raises: NotFound; BrokerUnavailable: ask again, it is safe to repeat."""
        with self._translated():
            return wire.letters_from_message(self._runs().PurgeDeadLetters(wire.choice_to_message(choice), timeout=timeout_s))

    def submit_task(self, submission: wire.TaskSubmission, timeout_s: float = SUBMIT_TASK_S) -> wire.TaskView:
        """Put a task into the queue. Raises: ConfigError: why not; BrokerUnavailable: safe to repeat under the same request_id."""
        request = wire.task_submission_to_message(submission)
        with self._translated():
            return wire.task_from_message(self._tasks().SubmitTask(request, timeout=timeout_s))

    def get_task(self, task_id: int, timeout_s: float = CALL_S) -> wire.TaskView:
        """Return the task as it is now. Raises: NotFound; BrokerUnavailable."""
        with self._translated():
            return wire.task_from_message(self._tasks().GetTask(wire.get_task_message(task_id), timeout=timeout_s))

    def wait_task(self, task_id: int, wait_s: float) -> wire.TaskView:
        """Return the task once it has ended, or as it is after wait_s (above 0, at most 60). Raises: NotFound; BrokerUnavailable."""
        request = wire.wait_task_message(task_id, wait_s)
        with self._translated():
            return wire.task_from_message(self._tasks().WaitTask(request, timeout=wait_s + CALL_S))

    def cancel_task(self, task_id: int, timeout_s: float = CALL_S) -> wire.TaskView:
        """Cancel a task and return it as it is then. Raises: NotFound; ConfigError: it is a chunk; BrokerUnavailable."""
        with self._translated():
            return wire.task_from_message(self._tasks().CancelTask(wire.cancel_task_message(task_id), timeout=timeout_s))

    def report(self, wanted: wire.Report, timeout_s: float = REPORT_S) -> Generator[str]:
        """Yield the pages of a report: JSON arrays of its rows.

        Raises: ConfigError: there is no such report; NotFound: no such run; BrokerUnavailable: the rest does not come, ask again.
        """
        message = wire.report_to_message(wanted)
        for page in self._stream(lambda left_s: self._runs().Report(message, timeout=left_s), timeout_s):
            yield wire.page_from_message(page)

    def info(self, timeout_s: float = CALL_S) -> wire.MasterInfo:
        """Return who leads and where its services are, as it is reached from here. Raises: BrokerUnavailable."""
        with self._translated():
            told = wire.info_from_message(self._runs().Info(wire.info_message(), timeout=timeout_s))
        host = self.address.rpartition(":")[0]
        return replace(told, scheduler_address=cluster_wire.reached_from(told.scheduler_address, host))

    def enrol(self, host: str, versions: cluster_wire.Versions, timeout_s: float = CALL_S) -> cluster_wire.Enrolment:
        """Return what this host needs to work. host: its own name for itself; over TLS its certificate's counts.

        The scheduler's address is one that can be used from here. Raises: NotAllowed: it was removed; BrokerUnavailable.
        """
        with self._translated():
            message = self._hosts().Enrol(cluster_wire.enrol_message(host, __version__, versions), timeout=timeout_s)
        return cluster_wire.seen_from(cluster_wire.enrolment_from_message(message), self.address)

    def renew(self, request_pem: bytes, timeout_s: float = CALL_S) -> bytes:
        """Return a new certificate (PEM) for this host and the key of this request. Raises: NotAllowed; ConfigError; BrokerUnavailable."""
        with self._translated():
            renewed = self._hosts().Renew(cluster_wire.renew_message(request_pem), timeout=timeout_s)
        return cluster_wire.renewed_from_message(renewed)

    def hosts(self, timeout_s: float = CALL_S) -> cluster_wire.HostList:
        """Return the hosts of the cluster. Raises: BrokerUnavailable."""
        with self._translated():
            return cluster_wire.hosts_from_message(self._hosts().Hosts(cluster_wire.hosts_message(), timeout=timeout_s))

    def echo(self, n_bytes: int, timeout_s: float = ECHO_S) -> int:
        """Have n_bytes sent here, at most 64 MiB, and return how many came. Raises: ConfigError; BrokerUnavailable."""
        message = cluster_wire.echo_message(n_bytes)
        return sum(len(echoed.data) for echoed in self._stream(lambda left_s: self._hosts().Echo(message, timeout=left_s), timeout_s))

    def close(self) -> None:
        """Hang up, for good; calls that are open in other threads end with ConfigError. Idempotent."""
        with self._lock:
            self._is_closed = True
            for channel in (self._channel, self._older):
                if channel is not None:
                    channel.close()
            self._channel = self._older = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pieces(self, wanted: WantedChunk, assembler: ChunkAssembler, timeout_s: float) -> Generator[bytes | ProtheonError]:
        """Yield the data of one stream from the assembler's offset on; last, if it is not whole and right then, the error why."""
        request = wire.read_message(wanted, assembler.offset_bytes)
        with self._translated():
            call = self._chunks().ReadChunk(request, timeout=timeout_s)
        try:
            for message in call:
                piece = wire.piece_from_message(message)
                yield assembler.feed(piece.offset_bytes, piece.data)
            assembler.finish()
        except grpc.RpcError as error:
            broken = self._error_of(error)
            broken.__cause__ = error
            yield broken
        except ProtheonError as error:  # of the assembler
            yield error
        finally:
            call.cancel()  # type: ignore[no-untyped-call]  # the stubs forgot its None

    def _stream(self, ask: Callable[[float], grpc.CallIterator[M]], timeout_s: float) -> Generator[M]:
        """Yield the messages of a stream; one that the broker has no place for is asked for again until timeout_s."""
        end_at = time.monotonic() + timeout_s
        was_heard = False
        while True:
            with self._translated():
                call = ask(end_at - time.monotonic())
            try:
                with self._translated():
                    for message in call:
                        was_heard = True
                        yield message
                return
            except BrokerBusy:
                if was_heard or time.monotonic() + BUSY_S >= end_at:
                    raise
            finally:  # also when the caller has seen enough
                call.cancel()  # type: ignore[no-untyped-call]  # the stubs forgot its None
            time.sleep(BUSY_S)

    def _connected(self) -> grpc.Channel:
        with self._lock:
            if self._is_closed:  # a watcher that took the hang-up for an outage would open a channel that nobody closes
                raise self._closed()
            if self._tls is None:
                if self._channel is None:
                    self._channel = grpc.insecure_channel(self.address, options=OPTIONS)
            elif self._channel is None or self._tls.stamp() != self._stamp:
                stamp, credentials = self._tls.stamp(), channel_credentials(self._tls)
                if self._older is not None:
                    self._older.close()
                # the name alone is fixed: the address may be any that leads there
                options = (*OPTIONS, ("grpc.ssl_target_name_override", MASTER_NAME))
                self._older, self._stamp = self._channel, stamp
                self._reached_at, self._found = -math.inf, NOT_LOOKED  # what was found of the one before
                self._channel = grpc.secure_channel(self.address, credentials, options=options)
            return self._channel

    def _chunks(self) -> chunk_pb2_grpc.ChunkServiceStub:
        return chunk_pb2_grpc.ChunkServiceStub(self._connected())

    def _tasks(self) -> task_pb2_grpc.TaskServiceStub:
        return task_pb2_grpc.TaskServiceStub(self._connected())

    def _hosts(self) -> cluster_pb2_grpc.ClusterServiceStub:
        return cluster_pb2_grpc.ClusterServiceStub(self._connected())

    def _runs(self) -> run_pb2_grpc.RunServiceStub:
        return run_pb2_grpc.RunServiceStub(self._connected())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._error_of(error) from error
        except ValueError as error:  # what grpc raises for a call on a channel that is closed
            if not self._is_closed:
                raise
            raise self._closed() from error

    def _error_of(self, error: grpc.RpcError) -> ProtheonError:
        """What the call ended with; neither an end that close() has made is an outage, nor a handshake that fails for good."""
        found = wire.error_from_call(error, self.address)
        if not isinstance(found, BrokerUnavailable):
            return found
        if self._is_closed:
            return self._closed()
        if wire.is_told(error):
            return found
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._away(SILENT)
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            return found
        why = self._why_unreached()
        return why if isinstance(why, ConfigError) else self._away(why or BROKE_OFF)

    def _away(self, why: str) -> BrokerUnavailable:
        elsewhere = joined_elsewhere(self.address, self._tls)
        return BrokerUnavailable(f"no master answers at {self.address}: {why}{elsewhere and f'. {elsewhere}'}")

    def _why_unreached(self) -> ConfigError | str:
        """What stands in the way of every connection, or why nobody answers; looked at once in REACH_S, whoever asks."""
        with self._lock:
            if is_due := time.monotonic() - self._reached_at > REACH_S:
                self._reached_at = time.monotonic()
        if is_due:
            self._found = refusal(self.address, self._tls)
        return self._found

    def _closed(self) -> ConfigError:
        return ConfigError(f"the connection to the master at {self.address} was closed here: open another one")
