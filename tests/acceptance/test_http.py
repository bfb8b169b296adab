"""The broker's HTTP beside a real load: the numbers move, end as the reports say, and nobody who misbehaves is waited for."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from typing import Any

import psutil
import pytest

from protheon_dask.model import STAGES, RunState
from protheon_dask.telemetry import prometheus
from tests.acceptance.conftest import Gate, Type, World, write_numbers, write_pipeline
from tests.fixtures.broker_http import address, get, told
from tests.fixtures.cluster import wait_until
from tests.unit.telemetry.test_metrics import samples_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

CHUNK_LINES = 100
BAD_LINES = ("if n % 100 == 7:", "    raise protheon.Reject('seven')")


def pid_of(world: World, part: str, command: list[str]) -> int:
    """The process of a part of the cluster; its tether's command line has the command, too, but further behind."""
    tether = psutil.Process(world.cluster._processes[part].process.pid)
    return next(it.pid for it in tether.children(recursive=True) if it.cmdline()[1 : 1 + len(command)] == command)


def scheduler_pid(world: World) -> int:
    return pid_of(world, "scheduler", ["-m", "dask", "scheduler"])


def broker_pid(world: World) -> int:
    return pid_of(world, "broker", ["-m", "protheon_dask.run.broker"])


def test_the_numbers_move_with_a_run_and_end_as_its_report_says(world: World, type_: Type, gate: Gate) -> None:
    lines = write_numbers(world.directory / "n.txt", 10 * CHUNK_LINES)
    body = "\n".join((gate.body(3, CHUNK_LINES), *BAD_LINES))
    before = wait_until(lambda: told(world.cluster, "/metrics"))
    run = world.submit(write_pipeline(world.directory, "moving", body), lines, chunk_lines=CHUNK_LINES).run_id

    def held() -> dict[str, Any] | None:
        """Three chunks are in, and both workers are held up in the pipeline."""
        now, workers = told(world.cluster, "/metrics"), told(world.cluster, "/workers")
        stages = [worker["current"] and worker["current"]["stage"] for worker in workers.values()]
        is_held = now["lines_total"] - before["lines_total"] == 3 * CHUNK_LINES and stages == ["transform"] * 2
        return now if is_held and (now["in_progress_tasks"], now["busy_workers"]) == (2, 2) else None

    now = wait_until(held, 60)
    assert (now["connected_workers"], now["idle_workers"], now["lost_workers"]) == (2, 0, 0)
    assert (now["running_runs"], now["pending_tasks"], now["ready"]) == (1, 5, 1)
    assert now["counted_at"] is not None
    assert now["workspace_bytes"] > 0
    workers = told(world.cluster, "/workers")
    for worker in workers.values():
        assert worker["status"] == "busy"
        assert worker["current"]["run"] == run
        assert worker["current"]["stage"] in STAGES
        assert worker["last_heartbeat_s"] < 30
    assert len({worker["current"]["task_id"] for worker in workers.values()}) == 2
    assert get(world.cluster, "/healthz")[0] == 200

    gate.open()
    assert world.finish(run).state is RunState.SUCCEEDED
    report = type_("runs", "show", run, "--json").json
    assert report["rejected"] == 10

    def over() -> dict[str, Any] | None:
        """All of it was counted."""
        now = told(world.cluster, "/metrics")
        return now if now["files_completed"] > before["files_completed"] and now["idle_workers"] == 2 else None

    end = wait_until(over)
    offered = sum(table["inserted"] + table["updated"] + table["ignored"] for table in report["rows"].values())
    grown = {name: end[name] - before[name] for name in end if name.endswith(("_total", "_tasks", "_completed"))}
    assert grown == {
        "files_total": report["files"],
        "files_completed": report["files"],
        "lines_total": report["lines"],
        "rows_total": offered,
        "rejects_total": report["rejected"],
        "raw_bytes_total": report["raw_bytes"],
        "wire_bytes_total": report["wire_bytes"],
        "dead_letters_total": report["dead_letters"],
        "completed_tasks": report["chunks"],
        **dict.fromkeys(("pending_tasks", "in_progress_tasks", "dead_tasks", "cancelled_tasks"), 0),
    }
    assert end["total_retries"] - before["total_retries"] == report["retries"]
    assert end["lines_per_second"] > 0
    wait_until(lambda: sum(worker["tasks_completed"] for worker in told(world.cluster, "/workers").values()) >= 10)


@pytest.mark.parametrize("form", [prometheus.OPENMETRICS, prometheus.TEXT])
def test_prometheus_reads_it(world: World, form: str) -> None:
    wait_until(lambda: told(world.cluster, "/metrics"))
    code, content_type, body = get(world.cluster, "/metrics", form)
    assert (code, content_type) == (200, prometheus.CONTENT_TYPES[form])
    samples = samples_of(body, form)
    assert samples["protheon_ready"] == 1
    assert sum(samples[f'protheon_workers{{status="{status}"}}'] for status in ("idle", "busy", "lost")) == 2


def test_stalled_readers_and_half_open_connections_beside_a_run_cost_nobody_anything(world: World, gate: Gate) -> None:
    lines = write_numbers(world.directory / "s.txt", 6 * CHUNK_LINES)
    body = gate.body(2, CHUNK_LINES)
    with ExitStack() as stack:
        run = world.submit(write_pipeline(world.directory, "stalled", body), lines, chunk_lines=CHUNK_LINES).run_id
        for n in range(200):
            client = stack.enter_context(socket.create_connection(address(world.cluster), timeout=30))
            with suppress(ConnectionError):  # the oldest have gone by then
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + (b"\r\n" if n % 2 else b""))
        world.wait_chunks_done(run, 2)
        assert get(world.cluster, "/healthz")[0] == 200
        gate.open()
        assert world.finish(run).state is RunState.SUCCEEDED
        assert world.findings(run) == ()
        assert get(world.cluster, "/healthz")[0] == 200


def test_health_names_what_is_missing_and_since_when_until_it_is_back(world: World) -> None:
    wait_until(lambda: get(world.cluster, "/healthz")[0] == 200)
    pid = scheduler_pid(world)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: get(world.cluster, "/healthz")[0] == 503, 60)
        answer = json.loads(get(world.cluster, "/healthz")[2])
        assert not answer["healthy"]
        assert answer["missing"][0].startswith("since ")
        assert "the Dask scheduler does not answer" in answer["missing"][0]
        assert told(world.cluster, "/metrics")["ready"] == 0
    finally:
        with suppress(ProcessLookupError):  # a frozen scheduler is killed and started anew
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: get(world.cluster, "/healthz")[0] == 200, 60)


@pytest.mark.slow
def test_a_broker_that_is_started_again_answers_where_it_did_and_its_totals_go_on(world: World) -> None:
    world.load(write_pipeline(world.directory, "counted"), write_numbers(world.directory / "counted.txt", CHUNK_LINES))
    before = wait_until(lambda: (now := told(world.cluster, "/metrics"))["lines_total"] > 0 and now)
    where = address(world.cluster)
    os.kill(broker_pid(world), signal.SIGKILL)
    seen: list[int] = []

    def is_back() -> bool:
        """It answers again, and has counted."""
        with suppress(OSError, http.client.HTTPException):
            client = http.client.HTTPConnection(*where, timeout=30)
            client.request("GET", "/metrics")
            response = client.getresponse()
            value = json.loads(response.read())
            client.close()
            if response.status == 200 and value["uptime_seconds"] < before["uptime_seconds"]:
                seen.append(value["lines_total"])
        return len(seen) >= 3

    wait_until(is_back, 60)
    assert min(seen) >= before["lines_total"] > 0
    wait_until(lambda: get(world.cluster, "/healthz")[0] == 200, 60)
