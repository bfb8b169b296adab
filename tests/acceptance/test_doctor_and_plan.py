"""``protheon doctor`` and ``protheon plan`` over one real cluster and a real PostgreSQL: what a person is told, and what is then so."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import zstandard

from protheon_dask.cli.main import main
from protheon_dask.config import Settings
from protheon_dask.errors import NotFound
from protheon_dask.run import api, gathering
from protheon_dask.run.doctor import MASTER_CONNECTIONS, OPEN_FILES_A_WORKER, OPEN_FILES_MASTER, WORKER_CONNECTIONS, Level
from protheon_dask.run.examining import examine
from protheon_dask.run.host_look import disk
from protheon_dask.run.plan import LoadPlan, plan
from protheon_dask.run.planning import wish_for
from tests.acceptance.conftest import Gate, World, write_numbers, write_pipeline
from tests.fixtures.cluster import wait_until
from tests.fixtures.own_postgres import OwnServer
from tests.fixtures.postgres import find_test_binaries, scratch_dir
from tests.fixtures.roles import role_of
from tests.fixtures.shell import PROTHEON

VARIABLES = ("DATABASE_URL", "PROTHEON_DATABASE_URL", "PROTHEON_HOME", "PGHOST", "PGDATABASE", "PGSERVICE")
Doctor = Callable[..., tuple[int, dict[str, Any]]]


def alone_in(home: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands know this home, and nothing else of who runs the tests."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PROTHEON_HOME", str(home))


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Exit code, and what --json says, of the command over a database, in a home of the test's own."""

    def ask(url: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        alone_in(tmp_path / "home", monkeypatch)
        capsys.readouterr()
        code = main(["doctor", *arguments, "--into", url, "--json"])
        out, err = capsys.readouterr()
        assert out, err
        return code, json.loads(out)

    return ask


def findings(told: dict[str, Any], level: str) -> list[tuple[str, str]]:
    return [(finding["what"], finding["told"]) for finding in told["findings"] if finding["level"] == level]


@contextmanager
def small_server(**settings: str) -> Iterator[OwnServer]:
    with scratch_dir() as root:
        server = OwnServer(find_test_binaries(), root, settings)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()


def test_a_cluster_that_is_well_is_looked_at_from_each_worker(world: World, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "BENCH_S", 0.2)
    code, told = doctor(world.url, world.cluster.client.address, "--bench")
    assert (code, told["is_well"], findings(told, "fail")) == (0, True, [])
    subjects = [what for what, _ in findings(told, "ok") + findings(told, "warn")]
    assert {
        "master",
        "scheduler",
        "versions",
        "clock",
        "reach",
        "database",
        "rights",
        "connections",
        "workspace",
        "open files",
        "link",
    } <= {*subjects}
    [host] = told["hosts"]
    assert host["n_workers"] == 2
    assert host["benched"]["n_processes"] == 2
    assert all(host["benched"][f"{stage}_lines_per_s"] > 0 for stage in ("decompress", "transform", "copy"))
    assert host["to_master"]["bytes_per_s"] > 0
    assert abs(host["to_database"]["clock_offset_s"]) < 2
    assert told["best_master"] == host["host"]
    assert "to the database" in told["because"]


def test_the_master_of_this_machine_is_found_by_itself_and_a_person_sees_a_table(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone_in(world.cluster.settings.home, monkeypatch)
    monkeypatch.setenv("PROTHEON_DATABASE_URL", world.url)
    code = main(["doctor"])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert "2 worker processes" in out
    assert "0 failures" in out
    assert "looking at the database .." in err
    assert "postgresql:" not in out, "no URL, which may hold a password"


def open_files(process: psutil.Process) -> list[tuple[str, int]]:
    """Of a broker or a scheduler."""
    try:
        command = " ".join(process.cmdline())
        return [(name, process.num_fds()) for name in ("run.broker", "dask scheduler") if name in command and "tether" not in command]
    except psutil.Error:  # it has ended
        return []


def test_a_load_takes_no_more_connections_and_files_than_doctor_reckons_with(world: World) -> None:
    """The constants are measured here: what the processes hold in the midst of a run, and at rest after it."""
    pipeline = write_pipeline(world.directory, "held", "time.sleep(0.02)")
    run = world.submit(pipeline, write_numbers(world.directory / "n.txt", 200), chunk_lines=10).run_id
    world.wait_chunks_done(run, 4)
    by_application = dict(
        world.ask("SELECT application_name, count(*) FROM pg_stat_activity WHERE datname = current_database() GROUP BY 1")
    )
    held = by_application.get("protheon-worker", 0) + by_application.get("protheon-lease", 0)
    broker = sum(n for name, n in by_application.items() if name in ("protheon-coordinator", "protheon-telemetry", "protheon-broker"))
    files = {name: n for process in psutil.Process().children(recursive=True) for name, n in open_files(process)}
    world.finish(run)
    assert 2 * 1 <= held <= 2 * WORKER_CONNECTIONS, by_application
    assert 2 <= broker <= MASTER_CONNECTIONS, by_application
    assert set(files) == {"run.broker", "dask scheduler"}
    assert max(files.values()) < OPEN_FILES_MASTER + 2 * OPEN_FILES_A_WORKER, files


def test_a_role_without_rights_is_told_which_grants_it_needs(database: str, doctor: Doctor) -> None:
    with role_of(database) as role:
        role.grant("REVOKE CREATE ON SCHEMA public FROM public")
        code, told = doctor(role.url)
    assert code == 1
    [(what, why)] = findings(told, "fail")
    assert (what, why) == ("rights", "there is no ledger, and the role may not make one")
    [advice] = [finding["to_do"] for finding in told["findings"] if finding["level"] == Level.FAIL]
    assert "GRANT CREATE ON DATABASE" in advice


@pytest.mark.slow
def test_a_server_with_few_connections_is_told_before_the_workers_are_refused(doctor: Doctor) -> None:
    with small_server(max_connections="8", max_wal_senders="0") as server:
        code, told = doctor(server.url())
    assert code == 1
    [(what, why)] = findings(told, "fail")
    assert what == "connections"
    assert "max_connections 8" in why


def test_an_embedded_database_that_was_never_made_is_not_made_for_a_look(doctor: Doctor, tmp_path: Path) -> None:
    _, told = doctor("embedded")
    assert ("database", "there is none yet: the first load makes it") in findings(told, "ok")
    assert not (tmp_path / "home" / "postgres").exists()


def test_a_database_that_does_not_answer_is_a_finding_and_no_error(doctor: Doctor) -> None:
    code, told = doctor("postgresql://ann:secret@127.0.0.1:9/d7")
    assert code == 1
    [(what, why)] = findings(told, "fail")
    assert what == "database"
    assert "does not answer" in why
    assert "secret" not in json.dumps(told)


def test_a_master_that_does_not_answer_is_a_finding_and_no_error(database: str, doctor: Doctor) -> None:
    code, told = doctor(database, "127.0.0.1:9")
    assert code == 1
    assert [what for what, _ in findings(told, "fail")] == ["master"]


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
def test_a_clock_that_is_wrong_is_told_with_its_direction(database: str, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG", "DATABASE_URL"))}
    command = ["faketime", "--exclude-monotonic", "-f", "-10m", str(PROTHEON), "doctor", "--into", database, "--json"]
    env = {**kept, "PROTHEON_HOME": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=100)
    assert done.returncode == 1, done.stderr.decode()
    [(what, why)] = findings(json.loads(done.stdout), "fail")
    assert what == "clock"
    assert why.startswith(("10 min 00 s behind PostgreSQL's", "9 min 59 s behind PostgreSQL's"))


@pytest.mark.slow
def test_a_worker_that_is_frozen_is_named_and_the_others_are_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gathering, "LOOK_S", 4.0)  # else half a minute
    effective = api.read_settings({"home": str(tmp_path)})
    wait_until(lambda: len(world.cluster.worker_pids()) == 2)
    frozen = psutil.Process(world.cluster.worker_pids()[0][1])
    frozen.suspend()
    try:
        address = world.cluster.client.address
        found, diagnosis = examine(effective, api.resolve_database(effective, world.url), address, is_given=True)
    finally:
        frozen.resume()
    [silent] = [finding for finding in diagnosis.findings if finding.level is Level.FAIL]
    assert (silent.what, silent.which) == ("reach", f"worker {next(iter(found.silent))}")
    assert "has not answered the scheduler for 4 s" in silent.told
    assert found.n_workers == 2
    assert found.hosts[0].n_workers == 1
    assert found.hosts[0].to_master is not None


def test_chunk_files_that_a_run_deletes_meanwhile_count_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "1.zst").write_bytes(b"12")
    (tmp_path / "1" / "2.zst").symlink_to("deleted")
    assert disk(Settings(workspace=str(tmp_path))).used_bytes == 2


# --- plan ---------------------------------------------------------------------------------------------------------------

PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
}
N_LINES = 2_000
SOURCES = "SELECT count(*) FROM protheon.source"


def numbers_file(path: Path, kind: str, first: int, n_lines: int = N_LINES) -> Path:
    path.write_bytes(PACK[kind](b"".join(b"%d\n" % n for n in range(first, first + n_lines))))
    return path


def planned(world: World, pipeline: str, *paths: Path, home: Path | None = None) -> LoadPlan:
    """As the command asks: over the world's database, from its home or another."""
    effective = api.read_settings({"home": str(home or world.cluster.settings.home)})
    with wish_for(effective, api.resolve_database(effective, world.url), [str(path) for path in paths], pipeline) as wish:
        return plan(wish)


def test_a_plan_over_archives_of_each_kind_says_what_a_load_then_does(world: World) -> None:
    pipeline = write_pipeline(world.directory, "planned")
    paths = [numbers_file(world.directory / f"{kind}.txt", kind, 10_000 * n) for n, kind in enumerate(PACK)]
    sources = world.ask(SOURCES)
    before = planned(world, pipeline, *paths)
    assert [(file.format, file.state, file.lines, file.chunks, file.is_exact) for file in before.files] == [
        (kind, "new", N_LINES, 2, True) for kind in PACK
    ]
    assert before.n_workers == 2, "those of the master that runs here"
    assert before.left_lines == 5 * N_LINES
    assert before.rate is not None
    assert before.rate.is_least
    assert "measured here" in before.rate.source
    assert (before.seconds or 0) > 0
    assert world.ask(SOURCES) == sources, "nothing was written"
    assert world.ask("SELECT to_regclass('public.planned')") == [(None,)]

    run = world.load(pipeline, *paths[:2])
    assert (run.lines, run.chunks) == (sum(f.lines for f in before.files[:2]), sum(f.chunks for f in before.files[:2]))
    after = planned(world, pipeline, *paths)
    assert [file.state for file in after.files] == ["loaded", "loaded", "new", "new", "new"]
    assert [file.left_lines for file in after.files] == [0, 0, *[N_LINES] * 3]
    assert f"by run {run.run}" in after.files[0].told
    world.load(pipeline, *paths)
    done = planned(world, pipeline, *paths)
    assert (done.left_lines, done.seconds, done.rate) == (0, None, None)


def test_of_a_file_that_is_loaded_in_part_the_rest_is_planned(world: World) -> None:
    gate = Gate(world.directory / "gate")
    pipeline = write_pipeline(world.directory, "partly", gate.body(3, 100).replace("if n", "if 'PROTHEON_BROKER' in os.environ and n", 1))
    path = numbers_file(world.directory / "n.txt", "zstd", 0)
    run = world.submit(pipeline, path, chunk_lines=100).run_id
    world.wait_chunks_done(run, 3)
    [file] = planned(world, pipeline, path).files
    assert (file.state, file.left_lines, file.chunks, file.chunk_lines) == ("being loaded", N_LINES - 300, 17, 100)
    world.cluster.client.cancel(run)
    gate.open()
    wait_until(lambda: planned(world, pipeline, path).files[0].state == "in part")
    made = planned(world, pipeline, path)
    assert f"of 20 chunks are loaded, run {run}" in made.files[0].told
    assert "only its other chunks" in made.notes[0]


@pytest.mark.slow
def test_hours_are_those_of_the_last_run_of_the_same_pipeline(world: World) -> None:
    pipeline = write_pipeline(world.directory, "slow", "time.sleep(0.005)")
    world.load(pipeline, numbers_file(world.directory / "a.txt", "plain", 0), chunk_lines=200)
    [(run, seconds)] = world.ask(
        "SELECT run_id, extract(epoch FROM max(ended_at) - min(started_at))::float8 FROM protheon.attempt"
        " WHERE run_id = (SELECT max(id) FROM protheon.run) GROUP BY 1"
    )
    made = planned(world, pipeline, numbers_file(world.directory / "b.txt", "plain", 90_000, 3 * N_LINES))
    assert made.rate is not None
    assert made.rate.source.startswith(f"run {run}: ")
    assert made.rate.bound is not None
    assert "transform" in made.rate.bound
    assert made.seconds == pytest.approx(seconds * made.left_raw_bytes / (world.directory / "a.txt").stat().st_size, rel=0.01)
    assert not made.rate.is_least
    assert made.rate.speeds is not None
    [host] = made.rate.speeds.hosts
    assert (host.n_workers, host.known_by, made.rate.speeds.equivalents) == (2, f"run {run}", pytest.approx(2))
    size = (world.directory / "a.txt").stat().st_size
    assert host.raw_bytes_per_s > 0.5 * size / (2 * seconds), "of each worker while it works, which is not longer than the run was"


@pytest.mark.slow
def test_the_hosts_of_a_cluster_are_measured_where_no_run_tells_how_quick_they_are(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone_in(world.cluster.settings.home, monkeypatch)
    path = numbers_file(world.directory / "n.txt", "plain", 0)
    command = ["plan", str(path), "--pipeline", write_pipeline(world.directory, "benched"), "--into", world.url, "--json"]
    assert main([*command, "--bench"]) == 0
    told = json.loads(capsys.readouterr().out)
    [host] = told["rate"]["speeds"]["hosts"]
    assert (host["n_workers"], host["known_by"]) == (2, "bench")
    assert 0 < told["rate"]["speeds"]["equivalents"] < 8
    assert main([*command, "--bench", "--workers", "3"]) == 2, "three of which hosts?"


def test_the_same_bytes_twice_and_what_cannot_be_read_are_told(world: World) -> None:
    pipeline = write_pipeline(world.directory, "odd")
    one = numbers_file(world.directory / "one.txt", "plain", 5)
    two = numbers_file(world.directory / "two.txt", "plain", 5)
    made = planned(world, pipeline, one, two)
    assert [file.state for file in made.files] == ["new", "same file"]
    assert made.left_lines == N_LINES
    with pytest.raises(NotFound, match="no such file"):
        planned(world, pipeline, world.directory / "none.txt")


def test_a_plan_needs_no_database_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone_in(tmp_path / "home", monkeypatch)
    path = numbers_file(tmp_path / "n.jsonl", "gzip", 0)
    code = main(["plan", str(path), "--workers", "3", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (code, told["left_lines"], told["n_workers"], told["files"][0]["format"]) == (0, N_LINES, 3, "gzip")
    assert told["hours"] == pytest.approx(told["seconds"] / 3_600)
    assert not (tmp_path / "home" / "postgres").exists()
    (tmp_path / "home" / "authority").mkdir(parents=True)
    assert main(["plan", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err.count("on which no master stands now") == 1
    assert "at least" in out
    assert "bottleneck" in out
