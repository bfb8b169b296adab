"""Messages to values and back, errors to gRPC statuses and back: with pin_wire the only module that makes or reads generated messages.

An error crosses as a status code, for any client, and as its class and arguments in the trailing metadata, so that ours
raises the same class again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import grpc

from protheon_dask import errors
from protheon_dask.broker._pb import chunk_pb2, run_pb2, task_pb2
from protheon_dask.broker.chunks import WantedChunk
from protheon_dask.errors import BrokerUnavailable, ConfigError, InvariantError, NotAllowed, NotFound, ProtheonError
from protheon_dask.model import Joined, RunState, TaskState
from protheon_dask.pipelines.pack import PackedPipeline

Status = grpc.StatusCode
Metadata = tuple[tuple[str, str | bytes], ...]

CLASS_KEY: Final = "protheon-error"
ARGS_KEY: Final = "protheon-error-args-bin"  # -bin: gRPC carries any bytes
MAX_ARGS_BYTES = 4_096
"""JSON of an error's arguments: with the details well below gRPC's 8 KiB for all metadata of a call."""
MAX_DETAILS_CHARS = 1_000
"""Text of a status: percent-encoded on the wire, so up to three times this for each byte of UTF-8."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What a person asks for: paths on the master, a pipeline, options."""

    paths: tuple[str, ...]
    pipeline: PackedPipeline
    chunk_lines: int = 0  # 0: chosen from the source's size and the number of worker threads
    reject_limit_lines: int | None = None
    reject_limit_fraction: float | None = None
    again: bool = False  # load finished sources once more, under new loads
    replace: bool = False  # undo the old loads first, where they can be undone
    request_id: str = ""  # asked again under the same one (a lost reply), the same run is returned
    checksum: bool = False  # keep a checksum of the rows of each table and chunk


@dataclass(frozen=True, slots=True)
class Resumption:
    """Go on with a paused run; both limits None: its own stays."""

    run_id: int  # 0: the latest
    reject_limit_lines: int | None = None
    reject_limit_fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """Send what is still refused of a run, and of its replays, through a pipeline again."""

    run_id: int  # 0: the latest
    pipeline: PackedPipeline | None = None  # None: the run's own
    reject_limit_lines: int | None = None  # neither this nor the fraction: no limit
    reject_limit_fraction: float | None = None
    request_id: str = ""  # as in Submission


@dataclass(frozen=True, slots=True)
class Undone:
    """A load whose rows are gone: how many were deleted of each table, by qualified name."""

    load_id: int
    deleted_rows: dict[str, int]


@dataclass(frozen=True, slots=True)
class LetterChoice:
    """Which dead letters: those of these tasks, of whatever run; with no task, all that are open of a run."""

    run_id: int = 0  # 0: the latest
    task_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Dead letters to which something happened; notices are for the person, in plain words."""

    task_ids: tuple[int, ...]  # empty: none was open
    run_ids: tuple[int, ...] = ()  # runs that have their tasks in hand now: they run, or are paused
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskSubmission:
    """A task of the general queue: a function's name, and its payload."""

    handler: str  # module:name
    payload_json: str = "null"
    priority: int = 0  # higher goes first; chunks have 0
    delay_s: float = 0.0
    visibility_timeout_s: float = 0.0  # 0: the cluster's stall_s
    max_failures: int = 0  # 0: the cluster's dead_at_failures
    request_id: str = ""  # as in Submission


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task at one moment. JSON is text, as PostgreSQL's jsonb gives it; times are aware UTC."""

    task_id: int
    handler: str
    state: TaskState
    attempt_no: int  # of the latest; 0: none yet
    payload_json: str
    result_json: str | None  # of a task that succeeded
    error_class: str | None  # of the last attempt that failed
    message: str | None
    submitted_at: datetime
    ready_at: datetime | None  # of a task that is ready: not to be claimed before
    ended_at: datetime | None

    @property
    def is_ended(self) -> bool:
        """Nothing changes any more by itself; a dead or cancelled task may be replayed."""
        return self.state in (TaskState.SUCCEEDED, TaskState.DEAD, TaskState.CANCELLED)


@dataclass(frozen=True, slots=True)
class JoinedLoad:
    """A load of a run, and how the run came to it."""

    load_id: int
    path: str
    joined: Joined


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to a submission; notices are for the person, in plain words."""

    run_id: int
    loads: tuple[JoinedLoad, ...]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunView:
    """A run at one moment; statistics as telemetry.statistics.RunStatistics in JSON."""

    run_id: int
    state: RunState
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def is_settled(self) -> bool:
        """Nothing changes any more without a person: ended, or paused."""
        return self.state.is_settled


@dataclass(frozen=True, slots=True)
class MasterInfo:
    """Who leads, and where its services are."""

    version: str
    scheduler_address: str
    dashboard_link: str
    broker_uuid: str  # new at each start of the broker
    epoch: int
    n_threads: int
    ledger_id: str  # identifies the ledger without saying where it is or how to reach it
    ephemeral: bool = False  # it ends with the command that started it
    http_address: str = ""  # of /metrics, /workers and /healthz


@dataclass(frozen=True, slots=True)
class Report:
    """A report by its name. everything: of rejects and dead letters those that are closed, too."""

    name: str
    run_id: int = 0  # 0: the latest
    limit: int = 0  # rows at most; 0: the report's default; 2^31-1: all
    everything: bool = False


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """Send a chunk's stored bytes from offset_bytes on."""

    chunk_id: int
    generation: int
    offset_bytes: int
    pin_id: str = ""  # empty: a chunk of a run


@dataclass(frozen=True, slots=True)
class ChunkPiece:
    """Stored bytes of a chunk that begin at offset_bytes."""

    offset_bytes: int
    data: bytes


# --- values and messages -----------------------------------------------------------------------------------------------


def submission_to_message(value: Submission) -> run_pb2.SubmitRequest:
    """Raises: ConfigError: a path cannot be said in UTF-8."""
    check_utf8(value.paths)
    return run_pb2.SubmitRequest(
        paths=value.paths,
        pipeline=_pipeline_to_message(value.pipeline),
        chunk_lines=value.chunk_lines,
        reject_limit_lines=value.reject_limit_lines,
        reject_limit_fraction=value.reject_limit_fraction,
        again=value.again,
        replace=value.replace,
        request_id=value.request_id,
        checksum=value.checksum,
    )


def submission_from_message(message: run_pb2.SubmitRequest) -> Submission:
    lines, fraction = _limits(message)
    return Submission(
        paths=tuple(message.paths),
        pipeline=_pipeline_from_message(message.pipeline),
        chunk_lines=message.chunk_lines,
        reject_limit_lines=lines,
        reject_limit_fraction=fraction,
        again=message.again,
        replace=message.replace,
        request_id=message.request_id,
        checksum=message.checksum,
    )


def _pipeline_to_message(packed: PackedPipeline) -> run_pb2.Pipeline:
    return run_pb2.Pipeline(**{name: getattr(packed, name) for name in PackedPipeline.__dataclass_fields__})


def _pipeline_from_message(message: run_pb2.Pipeline) -> PackedPipeline:
    return PackedPipeline(**{name: getattr(message, name) for name in PackedPipeline.__dataclass_fields__})


def submitted_to_message(value: Submitted) -> run_pb2.SubmitResponse:
    loads = [run_pb2.JoinedLoad(load_id=load.load_id, path=utf8(load.path), joined=load.joined.value) for load in value.loads]
    return run_pb2.SubmitResponse(run_id=value.run_id, loads=loads, notices=[utf8(notice) for notice in value.notices])


def submitted_from_message(message: run_pb2.SubmitResponse) -> Submitted:
    loads = tuple(JoinedLoad(load.load_id, load.path, Joined(load.joined)) for load in message.loads)
    return Submitted(message.run_id, loads, tuple(message.notices))


def run_to_message(value: RunView) -> run_pb2.Run:
    statistics_json = json.dumps(value.statistics, separators=(",", ":"))
    return run_pb2.Run(run_id=value.run_id, state=value.state.value, statistics_json=statistics_json)


def run_from_message(message: run_pb2.Run) -> RunView:
    return RunView(message.run_id, RunState(message.state), json.loads(message.statistics_json or "{}"))


def runs_to_message(values: Iterable[RunView]) -> run_pb2.ListResponse:
    return run_pb2.ListResponse(runs=[run_to_message(value) for value in values])


def runs_from_message(message: run_pb2.ListResponse) -> tuple[RunView, ...]:
    return tuple(run_from_message(run) for run in message.runs)


def info_to_message(value: MasterInfo) -> run_pb2.InfoResponse:
    return run_pb2.InfoResponse(
        version=value.version,
        scheduler_address=value.scheduler_address,
        dashboard_link=value.dashboard_link,
        broker_uuid=value.broker_uuid,
        epoch=value.epoch,
        n_threads=value.n_threads,
        ledger_id=value.ledger_id,
        ephemeral=value.ephemeral,
        http_address=value.http_address,
    )


def info_from_message(message: run_pb2.InfoResponse) -> MasterInfo:
    return MasterInfo(
        version=message.version,
        scheduler_address=message.scheduler_address,
        dashboard_link=message.dashboard_link,
        broker_uuid=message.broker_uuid,
        epoch=message.epoch,
        n_threads=message.n_threads,
        ledger_id=message.ledger_id,
        ephemeral=message.ephemeral,
        http_address=message.http_address,
    )


def get_message(run_id: int) -> run_pb2.GetRequest:
    return run_pb2.GetRequest(run_id=run_id)


def watch_message(run_id: int) -> run_pb2.WatchRequest:
    return run_pb2.WatchRequest(run_id=run_id)


def cancel_message(run_id: int) -> run_pb2.CancelRequest:
    return run_pb2.CancelRequest(run_id=run_id)


def pause_message(run_id: int, reason: str) -> run_pb2.PauseRequest:
    return run_pb2.PauseRequest(run_id=run_id, reason=reason)


def resumption_to_message(value: Resumption) -> run_pb2.ResumeRequest:
    return run_pb2.ResumeRequest(
        run_id=value.run_id, reject_limit_lines=value.reject_limit_lines, reject_limit_fraction=value.reject_limit_fraction
    )


def resumption_from_message(message: run_pb2.ResumeRequest) -> Resumption:
    return Resumption(message.run_id, *_limits(message))


def replay_to_message(value: Replay) -> run_pb2.ReplayRequest:
    return run_pb2.ReplayRequest(
        run_id=value.run_id,
        pipeline=None if value.pipeline is None else _pipeline_to_message(value.pipeline),
        reject_limit_lines=value.reject_limit_lines,
        reject_limit_fraction=value.reject_limit_fraction,
        request_id=value.request_id,
    )


def replay_from_message(message: run_pb2.ReplayRequest) -> Replay:
    pipeline = _pipeline_from_message(message.pipeline) if message.HasField("pipeline") else None
    return Replay(message.run_id, pipeline, *_limits(message), request_id=message.request_id)


def undo_message(load_id: int) -> run_pb2.UndoRequest:
    return run_pb2.UndoRequest(load_id=load_id)


def undone_to_message(value: Undone) -> run_pb2.UndoResponse:
    return run_pb2.UndoResponse(load_id=value.load_id, deleted_rows=value.deleted_rows)


def undone_from_message(message: run_pb2.UndoResponse) -> Undone:
    return Undone(message.load_id, dict(message.deleted_rows))


def choice_to_message(value: LetterChoice) -> run_pb2.DeadLettersRequest:
    return run_pb2.DeadLettersRequest(run_id=value.run_id, task_ids=value.task_ids)


def choice_from_message(message: run_pb2.DeadLettersRequest) -> LetterChoice:
    return LetterChoice(message.run_id, tuple(message.task_ids))


def letters_to_message(value: DeadLetters) -> run_pb2.DeadLettersResponse:
    return run_pb2.DeadLettersResponse(task_ids=value.task_ids, run_ids=value.run_ids, notices=[utf8(notice) for notice in value.notices])


def letters_from_message(message: run_pb2.DeadLettersResponse) -> DeadLetters:
    return DeadLetters(tuple(message.task_ids), tuple(message.run_ids), tuple(message.notices))


def task_submission_to_message(value: TaskSubmission) -> task_pb2.SubmitTaskRequest:
    """Raises: ConfigError: a number that the protocol cannot carry."""
    try:
        return task_pb2.SubmitTaskRequest(**{name: getattr(value, name) for name in TaskSubmission.__dataclass_fields__})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"task of {value.handler}: {error}") from error


def task_submission_from_message(message: task_pb2.SubmitTaskRequest) -> TaskSubmission:
    values = {name: getattr(message, name) for name in TaskSubmission.__dataclass_fields__}
    return TaskSubmission(**{**values, "payload_json": message.payload_json or "null"})


def task_to_message(value: TaskView) -> task_pb2.Task:
    return task_pb2.Task(
        task_id=value.task_id,
        handler=value.handler,
        state=value.state.value,
        attempt_no=value.attempt_no,
        payload_json=value.payload_json,
        result_json=value.result_json or "",
        error_class=value.error_class or "",
        message=utf8(value.message or ""),
        submitted_at=_time_to_text(value.submitted_at),
        ready_at=_time_to_text(value.ready_at),
        ended_at=_time_to_text(value.ended_at),
    )


def task_from_message(message: task_pb2.Task) -> TaskView:
    return TaskView(
        task_id=message.task_id,
        handler=message.handler,
        state=TaskState(message.state),
        attempt_no=message.attempt_no,
        payload_json=message.payload_json,
        result_json=message.result_json or None,
        error_class=message.error_class or None,
        message=message.message or None,
        submitted_at=datetime.fromisoformat(message.submitted_at),
        ready_at=_time_from_text(message.ready_at),
        ended_at=_time_from_text(message.ended_at),
    )


def get_task_message(task_id: int) -> task_pb2.GetTaskRequest:
    return task_pb2.GetTaskRequest(task_id=task_id)


def wait_task_message(task_id: int, timeout_s: float) -> task_pb2.WaitTaskRequest:
    return task_pb2.WaitTaskRequest(task_id=task_id, timeout_s=timeout_s)


def cancel_task_message(task_id: int) -> task_pb2.CancelTaskRequest:
    return task_pb2.CancelTaskRequest(task_id=task_id)


def _time_to_text(value: datetime | None) -> str:
    return "" if value is None else value.astimezone(UTC).isoformat()


def _time_from_text(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _limits(message: run_pb2.SubmitRequest | run_pb2.ResumeRequest | run_pb2.ReplayRequest) -> tuple[int | None, float | None]:
    return (
        message.reject_limit_lines if message.HasField("reject_limit_lines") else None,
        message.reject_limit_fraction if message.HasField("reject_limit_fraction") else None,
    )


def list_message(limit: int) -> run_pb2.ListRequest:
    return run_pb2.ListRequest(limit=limit)


def report_to_message(value: Report) -> run_pb2.ReportRequest:
    """Raises: ConfigError: a number that the protocol cannot carry."""
    try:
        return run_pb2.ReportRequest(name=value.name, run_id=value.run_id, limit=value.limit, everything=value.everything)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"report {value.name}: {error}") from error


def report_from_message(message: run_pb2.ReportRequest) -> Report:
    return Report(message.name, message.run_id, message.limit, message.everything)


def page_to_message(rows_json: str) -> run_pb2.ReportPage:
    return run_pb2.ReportPage(rows_json=rows_json)


def page_from_message(message: run_pb2.ReportPage) -> str:
    return message.rows_json


def info_message() -> run_pb2.InfoRequest:
    return run_pb2.InfoRequest()


def read_message(wanted: WantedChunk, offset_bytes: int) -> chunk_pb2.ReadChunkRequest:
    return chunk_pb2.ReadChunkRequest(
        chunk_id=wanted.chunk_id, generation=wanted.generation, offset_bytes=offset_bytes, pin_id=wanted.pin_id
    )


def read_from_message(message: chunk_pb2.ReadChunkRequest) -> ReadChunk:
    return ReadChunk(message.chunk_id, message.generation, message.offset_bytes, message.pin_id)


def piece_to_message(offset_bytes: int, data: bytes) -> chunk_pb2.ReadChunkResponse:
    return chunk_pb2.ReadChunkResponse(offset_bytes=offset_bytes, data=data)


def piece_from_message(message: chunk_pb2.ReadChunkResponse) -> ChunkPiece:
    return ChunkPiece(message.offset_bytes, message.data)


# --- errors and statuses -----------------------------------------------------------------------------------------------

STATUS_OF: Final[dict[type[ProtheonError], grpc.StatusCode]] = {
    # most of them by their root: a new class needs no line here, unless foreign clients should tell it apart
    errors.TransientError: Status.UNAVAILABLE,
    errors.BrokerBusy: Status.RESOURCE_EXHAUSTED,
    errors.ChunkGap: Status.OUT_OF_RANGE,
    errors.ChunkOutdated: Status.FAILED_PRECONDITION,
    errors.ChecksumMismatch: Status.DATA_LOSS,
    errors.RejectedError: Status.INVALID_ARGUMENT,
    errors.SourceDamaged: Status.DATA_LOSS,
    errors.SourceChanged: Status.FAILED_PRECONDITION,
    errors.ConfigError: Status.INVALID_ARGUMENT,
    errors.MissingSetting: Status.FAILED_PRECONDITION,
    errors.MigrationPending: Status.FAILED_PRECONDITION,
    errors.NotFound: Status.NOT_FOUND,
    errors.NotAllowed: Status.PERMISSION_DENIED,
    errors.TargetRefused: Status.FAILED_PRECONDITION,
    errors.WorkspaceFull: Status.RESOURCE_EXHAUSTED,
    errors.LeaseLost: Status.ABORTED,
    errors.LeadershipLost: Status.UNAVAILABLE,
    errors.Reject: Status.INVALID_ARGUMENT,
    errors.ProtheonError: Status.INTERNAL,
}

ERROR_OF: Final[dict[grpc.StatusCode, type[BrokerUnavailable | ConfigError | InvariantError]]] = {
    # a status that no Protheon made: gRPC itself, a proxy, another program on that port; all others: a defect
    Status.UNAVAILABLE: BrokerUnavailable,
    Status.DEADLINE_EXCEEDED: BrokerUnavailable,
    Status.CANCELLED: BrokerUnavailable,
    Status.NOT_FOUND: NotFound,
    Status.INVALID_ARGUMENT: ConfigError,
    Status.FAILED_PRECONDITION: ConfigError,
    Status.RESOURCE_EXHAUSTED: ConfigError,  # a message above the limit: a submission with too much in it
    Status.UNAUTHENTICATED: ConfigError,
    Status.PERMISSION_DENIED: NotAllowed,
    Status.UNIMPLEMENTED: ConfigError,  # not a Protheon, or an older one
}


def error_to_status(error: ProtheonError) -> tuple[grpc.StatusCode, str, Metadata]:
    """Say error as (code, details, trailing metadata). Long texts are cut: metadata have little room."""
    code = next(STATUS_OF[cls] for cls in type(error).__mro__ if cls in STATUS_OF)
    metadata: Metadata = ((CLASS_KEY, type(error).__name__),)
    for limit_chars in (MAX_ARGS_BYTES, 600, 100):  # of each argument: 600 of two and 100 of six fit in any script
        args_json = json.dumps([_clipped(arg, limit_chars) for arg in error.args], default=str).encode()
        if len(args_json) <= MAX_ARGS_BYTES:
            metadata += ((ARGS_KEY, args_json),)
            break
    return code, _clipped(utf8(str(error)), MAX_DETAILS_CHARS), metadata


def error_from_call(error: grpc.RpcError, address: str) -> ProtheonError:
    """Say how a call to address ended: the error that its server raised, or else what the status code amounts to."""
    metadata = {datum.key: datum.value for datum in error.trailing_metadata() or ()}
    name, args_json = str(metadata.get(CLASS_KEY)), metadata.get(ARGS_KEY)
    if name in _CLASSES and args_json is not None:
        try:
            return _CLASSES[name](*json.loads(args_json))
        except (TypeError, ValueError):  # from another version, whose class has other arguments
            return InvariantError(f"{name}: {error.details()}")
    code = error.code()
    return ERROR_OF.get(code, InvariantError)(f"broker at {address}: {code.name}: {error.details() or 'no details'}")


def is_told(error: grpc.RpcError) -> bool:
    """Tell whether the error comes from a Protheon, and not from gRPC itself."""
    return any(datum.key == CLASS_KEY for datum in error.trailing_metadata() or ())


def _clipped(value: Any, limit_chars: int) -> Any:
    return f"{value[: limit_chars - 3]}..." if isinstance(value, str) and len(value) > limit_chars else value


def check_utf8(paths: tuple[str, ...]) -> None:
    """Raise ConfigError for a path that protobuf cannot carry."""
    if odd := [path for path in paths if path != utf8(path)]:
        raise ConfigError(f"{utf8(odd[0])}: the name is not UTF-8; rename it, or name its directory")


def utf8(text: str) -> str:
    """Spell out what UTF-8 cannot say: the odd bytes of a file's name (surrogate escapes), which protobuf refuses."""
    return text.encode("utf-8", "backslashreplace").decode()


def _subclasses(cls: type[ProtheonError]) -> dict[str, type[ProtheonError]]:
    found = {cls.__name__: cls}
    for below in cls.__subclasses__():
        found |= _subclasses(below)
    return found


_CLASSES: Final = {name: cls for name, cls in _subclasses(ProtheonError).items() if cls.__module__ == errors.__name__}
