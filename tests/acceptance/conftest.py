"""One cluster for several scenarios, and pipelines that tests can hold up in the middle of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from protheon_dask.broker.wire import Submitted
from protheon_dask.cli.main import main
from protheon_dask.pipelines.find import find
from protheon_dask.run import api
from protheon_dask.telemetry.statistics import RunStatistics
from tests.fixtures.cluster import ask, finish, local_cluster, wait_until
from tests.fixtures.postgres import fresh_database

PIPELINE = '''
import os, time
import protheon_dask as protheon

T = protheon.Table(name="public.{name}", columns=(protheon.Column("n", "bigint"),), provenance=True)

@protheon.pipeline(version="1", tables=[T])
def {name}(line: bytes):
    """No key and no rule: a row that is loaded twice shows."""
    n = int(line)
{body}
    return (n,)
'''


def write_pipeline(directory: Path, name: str, body: str = "") -> str:
    """A file with a pipeline of numbers into public.<name>; body: statements that see the line's number n."""
    path = directory / f"{name}.py"
    path.write_text(PIPELINE.format(name=name, body="\n".join("    " + line for line in body.splitlines())))
    return f"{path}:{name}"


def write_numbers(path: Path, n_lines: int, first: int = 0) -> Path:
    path.write_text("".join(f"{n}\n" for n in range(first, first + n_lines)))
    return path


@dataclass(frozen=True)
class Gate:
    """Lets some chunks pass, whichever come first; the others wait until it is opened: a run stays in its middle."""

    path: Path

    def body(self, passes: int, chunk_lines: int) -> str:
        """Statements for write_pipeline: at the first line of each chunk of that many lines, take a ticket or wait."""
        return f"""if n % {chunk_lines} == 0:
    for ticket in range({passes}):
        try:
            os.close(os.open({str(self.path)!r} + str(ticket), os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            continue
    else:
        while not os.path.exists({str(self.path)!r}):
            time.sleep(0.02)"""

    def open(self) -> None:
        self.path.touch()


@dataclass
class World:
    """A running cluster, its database, and a directory for files."""

    cluster: api.LocalCluster
    url: str
    directory: Path

    def submit(self, pipeline: str, *paths: Path, **options: Any) -> Submitted:
        texts = [str(path) for path in paths]
        return self.cluster.client.submit(find(pipeline, paths=texts, table=options.pop("table", None)), texts, **options)

    def load(self, pipeline: str, *paths: Path, **options: Any) -> RunStatistics:
        """Submit and wait for the end."""
        return finish(self.cluster, self.submit(pipeline, *paths, **options).run_id)

    def finish(self, run_id: int) -> RunStatistics:
        return finish(self.cluster, run_id)

    def ask(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        return ask(self.url, sql, *params)

    def wait_chunks_done(self, run_id: int, n: int) -> None:
        wait_until(lambda: self.cluster.client.get(run_id).chunks_done >= n)

    def findings(self, run_id: int) -> tuple[str, ...]:
        return api.verify_run(self.url, run_id).findings

    def attempts(self, run_id: int) -> dict[int, list[tuple[str, str]]]:
        """By chunk: outcome and cost of its attempts, the first one first."""
        story: dict[int, list[tuple[str, str]]] = {}
        for row in reversed(api.report(self.url, "attempts", run_id)):
            story.setdefault(row["chunk_no"], []).append((row["outcome"], row["cost"]))
        return story


def numbers(url: str, table: str) -> list[int]:
    return [row[0] for row in ask(url, f"SELECT n FROM public.{table} ORDER BY n")]


@contextmanager
def new_world(postgres_url: str, directory: Path, **settings: Any) -> Iterator[World]:
    """A cluster over a fresh database."""
    with ExitStack() as stack:
        url = stack.enter_context(fresh_database(postgres_url))
        cluster = stack.enter_context(local_cluster(directory / "home", url, **settings))
        yield World(cluster, url, directory)


@pytest.fixture(scope="module")
def module_world(request: pytest.FixtureRequest, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One cluster for all tests of a module; the module's SETTINGS are its settings."""
    with new_world(postgres_url, tmp_path_factory.mktemp("world"), **getattr(request.module, "SETTINGS", {})) as made:
        yield made


@pytest.fixture
def world(module_world: World, tmp_path: Path) -> World:
    """The module's cluster with a directory of the test's own."""
    return World(module_world.cluster, module_world.url, tmp_path)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Closed; opened at the latest at the end of the test, so that no worker waits for ever."""
    made = Gate(tmp_path / "open")
    yield made
    made.open()


@dataclass
class Typed:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Type = Callable[..., Typed]


@pytest.fixture
def type_(world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Type:
    """A command of ours in this process, which finds the module's master."""
    monkeypatch.setenv("PROTHEON_HOME", str(world.cluster._home))
    monkeypatch.setenv("PROTHEON_DATABASE_URL", world.url)
    monkeypatch.setenv("COLUMNS", "200")

    def type_(*arguments: object) -> Typed:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Typed(code, *capfd.readouterr())

    return type_
