"""Values and errors survive the wire's messages."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask import errors
from protheon_dask.broker import wire
from protheon_dask.broker._pb import run_pb2, task_pb2
from protheon_dask.broker.peers import is_loopback
from protheon_dask.errors import BrokerUnavailable, ConfigError, InvariantError, NotFound, ProtheonError, SchemaViolation
from protheon_dask.model import Joined, RunState, TaskState
from protheon_dask.pipelines.pack import PackedPipeline

TEXT = st.text(max_size=20)
PIPELINES = st.builds(
    PackedPipeline, TEXT, TEXT, TEXT, st.binary(max_size=20), st.binary(max_size=20), st.binary(max_size=20), TEXT, TEXT, TEXT
)
SUBMISSIONS = st.builds(
    wire.Submission,
    st.lists(TEXT, max_size=3).map(tuple),
    PIPELINES,
    st.integers(0, 2**31 - 1),
    st.none() | st.integers(0, 2**63 - 1),
    st.none() | st.floats(0, 1),
    st.booleans(),
    st.booleans(),
    TEXT,
)


TASK_SUBMISSIONS = st.builds(
    wire.TaskSubmission,
    TEXT,
    st.text(min_size=1, max_size=20),
    st.integers(-32_768, 32_767),
    st.floats(0, 1e9),
    st.floats(0, 1e9),
    st.integers(0, 32_767),
    TEXT,
)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))])
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 30), timezones=ZONES)
TASKS = st.builds(
    wire.TaskView,
    st.integers(1, 2**63 - 1),
    TEXT,
    st.sampled_from(TaskState),
    st.integers(0, 2**31 - 1),
    TEXT,
    *[st.none() | st.text(min_size=1, max_size=20)] * 3,
    TIMES,
    st.none() | TIMES,
    st.none() | TIMES,
)


class Metadatum(NamedTuple):
    key: str
    value: str | bytes


class Ended(grpc.RpcError):
    """A call that ended as gRPC reports it, with the status that a server sent."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: wire.Metadata = ()) -> None:
        super().__init__()
        self._code, self._details = code, details
        self._metadata = tuple(Metadatum(key, value) for key, value in metadata)

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self):  # type: ignore[no-untyped-def]  # a private class of the stubs
        return self._metadata


def sent(error: ProtheonError) -> ProtheonError:
    return wire.error_from_call(Ended(*wire.error_to_status(error)), "there:1")


@given(SUBMISSIONS)
def test_a_submission_survives_the_wire(submission: wire.Submission) -> None:
    message = run_pb2.SubmitRequest.FromString(wire.submission_to_message(submission).SerializeToString())

    assert wire.submission_from_message(message) == submission


@given(TASK_SUBMISSIONS)
def test_a_task_that_is_submitted_survives_the_wire(submission: wire.TaskSubmission) -> None:
    message = task_pb2.SubmitTaskRequest.FromString(wire.task_submission_to_message(submission).SerializeToString())

    assert wire.task_submission_from_message(message) == submission


@given(TASKS)
def test_a_task_survives_the_wire(task: wire.TaskView) -> None:
    message = task_pb2.Task.FromString(wire.task_to_message(task).SerializeToString())

    assert wire.task_from_message(message) == task


@pytest.mark.parametrize("wrong", [{"priority": 1 << 40}, {"max_failures": -(1 << 40)}, {"delay_s": "soon"}, {"handler": 7}])
def test_a_task_with_a_number_that_the_protocol_cannot_carry_is_refused_by_the_client(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="task of"):
        wire.task_submission_to_message(wire.TaskSubmission(**{"handler": "m:f", **wrong}))  # type: ignore[arg-type]  # that is the point


def test_an_empty_payload_is_null() -> None:
    assert wire.task_submission_from_message(task_pb2.SubmitTaskRequest(handler="m:f")).payload_json == "null"


def test_answers_survive_the_wire() -> None:
    loads = tuple(wire.JoinedLoad(i, f"/data/{joined}", joined) for i, joined in enumerate(Joined))
    submitted = wire.Submitted(3, loads, ("the code has changed",))
    view = wire.RunView(3, RunState.PAUSED, {"chunks": {"done": 1}, "eta_s": None})
    info = wire.MasterInfo("1", "tcp://h:8786", "http://h:8787", "u", 7, 16, "l", ephemeral=True, http_address="h:8080")

    assert wire.submitted_from_message(wire.submitted_to_message(submitted)) == submitted
    assert wire.run_from_message(wire.run_to_message(view)) == view
    assert wire.runs_from_message(wire.runs_to_message([view, view])) == (view, view)
    assert wire.info_from_message(wire.info_to_message(info)) == info


def test_a_name_that_is_not_utf_8_is_refused_by_the_client_and_spelled_out_by_the_master() -> None:
    odd = b"caf\xe9.jsonl".decode("utf-8", "surrogateescape")
    pipeline = PackedPipeline("jsonl", "1", "jsonl", b"", b"", b"", "[]", "{}", "{}")

    with pytest.raises(ConfigError, match=r"caf\\udce9.jsonl"):
        wire.submission_to_message(wire.Submission((odd,), pipeline))
    answer = wire.submitted_to_message(wire.Submitted(1, (wire.JoinedLoad(1, odd, Joined.NEW),)))

    assert answer.loads[0].path == r"caf\udce9.jsonl"


@pytest.mark.parametrize("state", RunState)
def test_a_run_is_settled_when_only_a_person_can_change_it(state: RunState) -> None:
    assert wire.RunView(1, state).is_settled == (state not in (RunState.QUEUED, RunState.RUNNING))


@pytest.mark.parametrize(
    "text", [repeated * 20_000 for repeated in ("x", "\u20ac", "\U0001f4a5", '"\\\n')], ids=["x", "euro", "boom", "quoted"]
)
def test_a_long_error_keeps_its_class_and_fits_into_the_metadata(text: str) -> None:
    code, details, metadata = wire.error_to_status(SchemaViolation(text, "22P02", text))
    size = len(details) + sum(len(key) + len(value) for key, value in metadata)
    again = sent(SchemaViolation(text, "22P02", text))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert size < 8_192 - 1_024
    assert isinstance(again, SchemaViolation)
    assert again.sqlstate == "22P02"
    assert text.startswith(again.message.removesuffix("..."))


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.UNAVAILABLE, BrokerUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, BrokerUnavailable),
        (grpc.StatusCode.CANCELLED, BrokerUnavailable),
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.UNIMPLEMENTED, ConfigError),
        (grpc.StatusCode.UNKNOWN, InvariantError),
        (grpc.StatusCode.INTERNAL, InvariantError),
    ],
)
def test_a_status_that_no_protheon_made_says_who_acts_and_where_it_came_from(code: grpc.StatusCode, cls: type[ProtheonError]) -> None:
    error = wire.error_from_call(Ended(code, "what happened"), "there:1")

    assert type(error) is cls
    assert str(error) == f"broker at there:1: {code.name}: what happened"


def test_an_error_of_another_version_keeps_its_text() -> None:
    other_args = ((wire.CLASS_KEY, "ChunkGap"), (wire.ARGS_KEY, json.dumps([1]).encode()))
    unknown = ((wire.CLASS_KEY, "QuotaExceeded"), (wire.ARGS_KEY, b"[]"))
    foreign = ((wire.CLASS_KEY, "SystemExit"), (wire.ARGS_KEY, b"[3]"))

    assert "gap" in str(wire.error_from_call(Ended(grpc.StatusCode.OUT_OF_RANGE, "gap", other_args), "there:1"))
    assert type(wire.error_from_call(Ended(grpc.StatusCode.UNAVAILABLE, "full", unknown), "there:1")) is BrokerUnavailable
    assert type(wire.error_from_call(Ended(grpc.StatusCode.UNKNOWN, "bye", foreign), "there:1")) is InvariantError


def test_the_table_names_only_errors_of_the_tree_and_has_their_root() -> None:
    assert errors.ProtheonError in wire.STATUS_OF
    assert all(issubclass(cls, errors.ProtheonError) for cls in wire.STATUS_OF)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("master", False)],
)
def test_only_loopback_is_loopback(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local
