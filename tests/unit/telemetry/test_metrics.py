"""What /metrics, /workers and /healthz tell of a picture: JSON, OpenMetrics and Prometheus's text say the same."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from prometheus_client import parser as text_parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from protheon_dask.model import STAGES, Outcome, RunState
from protheon_dask.telemetry import prometheus
from protheon_dask.telemetry.metrics import COUNTER, INFO, METRICS, Metric, health_json, metrics_json, workers_json
from protheon_dask.telemetry.picture import ClusterPicture, Flow, HostAside, Totals, WorkerPicture
from protheon_dask.telemetry.statistics import RunStatistics

PROMISED = {
    *("uptime_seconds", "pending_tasks", "in_progress_tasks", "completed_tasks", "dead_tasks", "connected_workers", "idle_workers"),
    *("total_retries", "files_total", "files_completed"),
}


def run_in(state: RunState, number: int = 1) -> RunStatistics:
    """A run in this state; all its numbers are 0."""
    named: dict[str, Any] = {"run": number, "state": state, "reason": None, "pipeline": "jsonl", "split_done": True, "seconds": 1.0}
    empty = dict.fromkeys(("paths", "notices", "rows"), ())
    numbers = {item.name: 0 for item in fields(RunStatistics) if item.type == "int"}
    return RunStatistics(**{**numbers, **empty, **named, "stage_seconds": {}})


TOTALS = Totals(
    tasks_ready=1,
    tasks_running=2,
    tasks_succeeded=3,
    tasks_dead=4,
    tasks_cancelled=5,
    retries=6,
    retries_by_cause={"failed": 4, "crashed": 2},
    files=7,
    files_completed=8,
    lines=9,
    rows=10,
    raw_bytes=11,
    wire_bytes=12,
    rejects=13,
    dead_letters=14,
)
WORKERS = (
    WorkerPicture("a-0", "alpha", "busy", 41, 7, "copy", 1.25, 0.98, 12, 30_000.0, 0.4),
    WorkerPicture("a-1", "alpha", "idle", tasks_completed=3),
    WorkerPicture("b-0", "beta", "lost", last_heartbeat_s=31.0),
    WorkerPicture("b-1", "beta", "idle"),
)
PICTURE = ClusterPicture(
    at=1_790_000_000.5,
    version="9.9",
    uptime_s=61.5,
    missing=(),
    totals=TOTALS,
    flow=Flow(15.5, 16.5, 17.5, 18.5),
    runs=(run_in(RunState.RUNNING), run_in(RunState.PAUSED), run_in(RunState.SUCCEEDED), run_in(RunState.RUNNING)),
    workers=WORKERS,
    stage_seconds={"copy": 3.0, "transform": 1.0},
    oldest_ready_s=4.5,
    workspace_bytes=19,
    workspace_quota_bytes=20,
    look_ahead_chunks=21,
    hosts_aside=(HostAside("gamma", "its disk is full", 0.0),),
    bound="bound by COPY",
    counted_at=1_789_999_999.0,
)
NOTHING = ClusterPicture(0.0, "9.9", 0.0, ("since 10:00:00 UTC: the ledger",), Totals(), Flow(), (), (), {}, None, 0, 0, 0)


def samples_of(text: bytes, form: str) -> dict[str, float]:
    """Every sample by its name with its labels, as prometheus_client's own parser reads the text."""
    parser = openmetrics_parser if form == prometheus.OPENMETRICS else text_parser
    found: dict[str, float] = {}
    for family in parser.text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            name = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert name not in found
            found[name] = sample.value
    return found


def sample_names(metric: Metric) -> list[str]:
    """Samples of one entry of the catalogue, as samples_of names them; without the version, which is a value."""
    name = metric.family + ("_total" if metric.kind == COUNTER else "_info" if metric.kind == INFO else "")
    if metric.kind == INFO:
        return [f'{name}{{{metric.label}="9.9"}}']
    values = metric.values or ((metric.value,) if metric.label else ())
    return [f'{name}{{{metric.label}="{value}"}}' for value in values] or [name]


def test_the_json_object_has_what_was_promised_and_every_number_of_the_picture() -> None:
    told = json.loads(json.dumps(metrics_json(PICTURE)))
    assert set(told) >= PROMISED
    assert {name: told[name] for name in PROMISED} == {
        "uptime_seconds": 61.5,
        "pending_tasks": 1,
        "in_progress_tasks": 2,
        "completed_tasks": 3,
        "dead_tasks": 4,
        "connected_workers": 3,
        "idle_workers": 2,
        "total_retries": 6,
        "files_total": 7,
        "files_completed": 8,
    }
    rest = {name: value for name, value in told.items() if name not in PROMISED}
    assert rest == {
        "version": "9.9",
        "taken_at": "2026-09-21T14:13:20.500000Z",
        "picture_timestamp_seconds": 1_790_000_000.5,
        "counted_at": "2026-09-21T14:13:19Z",
        "counted_timestamp_seconds": 1_789_999_999.0,
        "ready": 1,
        "missing": [],
        "cancelled_tasks": 5,
        "oldest_ready_seconds": 4.5,
        "retries_by_cause": {"failed": 4, "released": 0, "crashed": 2, "expired": 0, "cancelled": 0},
        "dead_letters_total": 14,
        "busy_workers": 1,
        "lost_workers": 1,
        "hosts_set_aside": 1,
        "queued_runs": 0,
        "running_runs": 2,
        "paused_runs": 1,
        "lines_total": 9,
        "rows_total": 10,
        "rejects_total": 13,
        "raw_bytes_total": 11,
        "wire_bytes_total": 12,
        "lines_per_second": 15.5,
        "rows_per_second": 16.5,
        "raw_bytes_per_second": 17.5,
        "wire_bytes_per_second": 18.5,
        "stage_ratio": {stage: {"copy": 0.75, "transform": 0.25}.get(stage, 0.0) for stage in STAGES},
        "bound": "bound by COPY",
        "workspace_bytes": 19,
        "workspace_quota_bytes": 20,
        "look_ahead_chunks": 21,
    }


@pytest.mark.parametrize("picture", [PICTURE, NOTHING], ids=["at work", "empty"])
@pytest.mark.parametrize("form", [prometheus.OPENMETRICS, prometheus.TEXT])
def test_prometheus_reads_the_same_numbers_as_json_has(picture: ClusterPicture, form: str) -> None:
    told = metrics_json(picture)
    want: dict[str, float] = {}
    for metric in METRICS:
        if metric.family:
            value = 1.0 if metric.kind == INFO else told[metric.key]
            numbers = value.values() if isinstance(value, dict) else [value]
            want.update(zip(sample_names(metric), numbers, strict=True))
    assert samples_of(prometheus.exposition(picture, form), form) == want


def test_the_number_of_series_is_the_same_whatever_the_cluster_holds() -> None:
    many = replace(
        PICTURE,
        runs=tuple(run_in(RunState.RUNNING, number) for number in range(50)),
        workers=tuple(WorkerPicture(f"w-{n}", f"host-{n}", "busy", n) for n in range(500)),
        hosts_aside=tuple(HostAside(f"host-{n}", "why", 0.0) for n in range(100)),
        totals=replace(TOTALS, retries_by_cause={**{str(outcome): 3 for outcome in Outcome}, "of a newer version": 1}),
    )
    series = [set(samples_of(prometheus.exposition(picture, prometheus.TEXT), prometheus.TEXT)) for picture in (many, NOTHING)]
    assert series[0] == series[1]
    assert len(series[0]) < 60


def test_names_types_and_units_are_by_convention() -> None:
    """promtool's rules, as far as names tell: base units at the end, totals only of counters, no type in a name, a help text each."""
    text = prometheus.exposition(PICTURE, prometheus.OPENMETRICS).decode()
    families = list(openmetrics_parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]  # the library's
    assert len({family.name for family in families}) == len(families)
    units = {"", "seconds", "bytes", "ratio"}
    for family in families:
        assert family.name.startswith("protheon_")
        assert family.documentation.endswith(".")
        assert family.unit in units
        assert family.unit == "" or family.name.endswith(f"_{family.unit}")
        assert all(sample.name.endswith("_total") for sample in family.samples) == (family.type == "counter")
        assert not {"gauge", "counter", "ms", "mb", "kb", "milliseconds", "percent"} & set(family.name.split("_"))
        if not family.unit:
            assert not family.name.endswith(tuple(f"_{unit}" for unit in units if unit))


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", prometheus.JSON),
        ("*/*", prometheus.JSON),
        ("application/json", prometheus.JSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", prometheus.JSON),
        ("text/plain", prometheus.TEXT),
        ("TEXT/Plain ; version=0.0.4", prometheus.TEXT),
        ("text/*", prometheus.TEXT),
        ("text/plain;q=0.1, application/json;q=0.9", prometheus.JSON),
        ("text/plain, application/json", prometheus.TEXT),
        ("application/json, text/plain", prometheus.JSON),
        ("application/openmetrics-text", prometheus.OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0, text/plain;version=0.0.4;q=0.5,*/*;q=0.1", prometheus.OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1;q=0.2,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", prometheus.TEXT),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            prometheus.OPENMETRICS,
        ),
        ("application/*;q=0.5, application/json;q=0", prometheus.OPENMETRICS),
        ("text/plain;q=0, */*", prometheus.JSON),
        ("text/plain;q=much", prometheus.JSON),
        ("image/png", prometheus.JSON),
        (";;,,=;q", prometheus.JSON),
    ],
)
def test_the_header_accept_chooses_the_form(accept: str, form: str) -> None:
    assert prometheus.choose(accept) == form


def test_workers_are_told_by_name_each_with_what_it_does_now() -> None:
    told = json.loads(json.dumps(workers_json(PICTURE)))
    assert list(told) == ["b-0", "a-0", "a-1", "b-1"]
    assert told["a-0"] == {
        "status": "busy",
        "host": "alpha",
        "current": {"task_id": 41, "run": 7, "stage": "copy", "stage_s": 1.25},
        "tasks_completed": 12,
        "utilization": 0.98,
        "lines_per_s": 30_000.0,
        "last_heartbeat_s": 0.4,
    }
    assert (told["a-1"]["status"], told["a-1"]["current"], told["a-1"]["tasks_completed"]) == ("idle", None, 3)
    assert (told["b-0"]["status"], told["b-0"]["last_heartbeat_s"]) == ("lost", 31.0)


def test_a_worker_that_came_back_under_its_name_is_not_told_as_lost() -> None:
    back = replace(WORKERS[1], name="b-0")
    for workers in ((*WORKERS, back), (back, *WORKERS)):
        assert workers_json(replace(PICTURE, workers=workers))["b-0"]["status"] == "idle"


def test_health_says_what_is_missing() -> None:
    assert health_json(PICTURE) == {"healthy": True, "missing": [], "taken_at": "2026-09-21T14:13:20.500000Z"}
    told = health_json(NOTHING)
    assert (told["healthy"], told["missing"]) == (False, ["since 10:00:00 UTC: the ledger"])
    assert (metrics_json(NOTHING)["ready"], metrics_json(NOTHING)["missing"]) == (0, ["since 10:00:00 UTC: the ledger"])
