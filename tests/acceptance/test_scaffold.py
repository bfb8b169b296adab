"""``protheon scaffold``, and its files loading what they were made of through a real cluster, against counts by json alone."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, Phase, given, settings

from protheon_dask.cli.main import main
from protheon_dask.model import RunState
from protheon_dask.pipelines.sample import write_sample
from protheon_dask.pipelines.scaffold.make import Origin, scaffold
from protheon_dask.pipelines.scaffold.names import SQL_RESERVED
from protheon_dask.run import api
from tests.acceptance.conftest import World
from tests.fixtures import pgcr_reports, public_lines
from tests.unit.pipelines.test_scaffold import DOCUMENTS, dumped

ROOT = Path(__file__).parents[2]
N_LINES = 2_000
Document = dict[str, Any]
COUNTER = itertools.count()


@dataclass(frozen=True)
class Done:
    """How the command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str | Path) -> Done:
    """The command in this process: forty new ones would be most of the tests' time."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["scaffold", *map(str, arguments)])
    return Done(code, out.getvalue(), err.getvalue())


def written(world: World, *arguments: str | Path) -> Path:
    """The file that the command writes for these arguments."""
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    path = world.directory / "my_pipeline.py"
    path.write_text(done.stdout)
    return path


def store(path: Path, documents: list[Document]) -> Path:
    """Lines as people write them: one object each, compressed."""
    text = "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    path.write_bytes(zstandard.compress(text.encode()))
    return path


def below(documents: list[Document], *keys: str) -> Iterator[Any]:
    """What stands at the end of these keys in each document; lists on the way, and at the end, are passed through."""
    values: list[Any] = list(documents)
    for key in keys:
        found = [value[key] for value in values if isinstance(value, dict) and value.get(key) is not None]
        values = [item for value in found for item in (value if isinstance(value, list) else [value])]
    return iter(values)


def n_below(*keys: str) -> Callable[[list[Document]], int]:
    return lambda documents: sum(1 for _ in below(documents, *keys))


TABLES: dict[str, dict[str, Callable[[list[Document]], int]]] = {
    "github_events": {"": len, "commits": n_below("payload", "commits"), "labels": n_below("payload", "issue", "labels")},
    "wikipedia_changes": {"": len},
    "mastodon_statuses": {
        "": len,
        "media_attachments": n_below("media_attachments"),
        "mentions": n_below("mentions"),
        "tags": n_below("tags"),
        "fields": n_below("account", "fields"),
        "reblog_media_attachments": n_below("reblog", "media_attachments"),
        "reblog_mentions": n_below("reblog", "mentions"),
        "reblog_tags": n_below("reblog", "tags"),
        "reblog_account_fields": n_below("reblog", "account", "fields"),
    },
    "stripe_events": {"": len, "lines_data": n_below("data", "object", "lines", "data")},
    "openalex_works": {
        "": len,
        "authorships": n_below("authorships"),
        "institutions": n_below("authorships", "institutions"),
        "concepts": n_below("concepts"),
        "counts_by_year": n_below("counts_by_year"),
    },
    "nginx_log": {"": len},
}
VALUES: dict[str, list[tuple[str, Callable[[list[Document]], list[Any]]]]] = {
    "github_events": [
        ("SELECT coalesce(sum(payload_size), 0) FROM lab.github_events", lambda d: [sum(below(d, "payload", "size"))]),
        ("SELECT count(*) FROM lab.github_events_commits WHERE distinct_", lambda d: [sum(below(d, "payload", "commits", "distinct"))]),
        (
            "SELECT sum((payload_pull_request->>'additions')::int) FROM lab.github_events",
            lambda d: [sum(below(d, "payload", "pull_request", "additions"))],
        ),
        ("SELECT count(*) FROM lab.github_events WHERE payload_pull_request = 'null'", lambda d: [0]),
    ],
    "wikipedia_changes": [
        ("SELECT sum(revision_new) FROM lab.wikipedia_changes", lambda d: [sum(below(d, "revision", "new"))]),
        ("SELECT meta_id::text FROM lab.wikipedia_changes ORDER BY meta_offset", lambda d: list(below(d, "meta", "id"))),
        ("SELECT comment FROM lab.wikipedia_changes ORDER BY meta_offset", lambda d: list(below(d, "comment"))),
    ],
    "mastodon_statuses": [
        ("SELECT sum(favourites_count) FROM lab.mastodon_statuses", lambda d: [sum(below(d, "favourites_count"))]),
        ("SELECT content FROM lab.mastodon_statuses ORDER BY id", lambda d: list(below(d, "content"))),
    ],
    "stripe_events": [
        ("SELECT sum(amount) FROM lab.stripe_events_lines_data", lambda d: [sum(below(d, "data", "object", "lines", "data", "amount"))]),
        ("SELECT object_metadata FROM lab.stripe_events ORDER BY id", lambda d: [line["data"]["object"]["metadata"] for line in d]),
    ],
    "openalex_works": [
        ("SELECT sum(cited_by_count) FROM lab.openalex_works", lambda d: [sum(below(d, "cited_by_count"))]),
        ("SELECT referenced_works FROM lab.openalex_works ORDER BY id", lambda d: [line["referenced_works"] for line in d]),
        ("SELECT publication_date::text FROM lab.openalex_works ORDER BY id", lambda d: list(below(d, "publication_date"))),
    ],
    "nginx_log": [
        ("SELECT sum(body_bytes_sent) FROM lab.nginx_log", lambda d: [sum(int(line["body_bytes_sent"]) for line in d)]),
        ("SELECT http_user_agent FROM lab.nginx_log ORDER BY timestamp", lambda d: list(below(d, "http-user-agent"))),
    ],
}


SHORT = {"github_events", "stripe_events", "openalex_works"}  # in `make test`; all shapes are tried without a database in unit/


@pytest.mark.parametrize("name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in TABLES])
def test_a_file_of_a_public_shape_is_loaded_whole_by_what_was_made_of_its_head(world: World, name: str) -> None:
    documents = list(getattr(public_lines, name)(N_LINES))
    data = store(world.directory / f"{name}.jsonl.zst", documents)
    pipeline = written(world, data, "--table", f"lab.{name}", "--lines", "700")

    final = world.load(str(pipeline), data, chunk_lines=700)

    assert final.state is RunState.SUCCEEDED
    assert (final.loaded, final.rejected) == (N_LINES, 0)
    for suffix, count in TABLES[name].items():
        table = f"lab.{name}" + (f"_{suffix}" if suffix else "")
        assert world.ask(f"SELECT count(*) FROM {table}") == [(count(documents),)], table
    made = world.ask("SELECT count(*) FROM pg_tables WHERE schemaname = 'lab' AND tablename ~ %s", f"^{name}(_|$)")
    assert made == [(len(TABLES[name]),)]
    for query, expected in VALUES[name]:
        assert [row[0] for row in world.ask(query)] == expected(documents), query


@pytest.mark.parametrize("shape", ["dump", pytest.param("api", marks=pytest.mark.slow), "mixed"])
def test_reports_are_loaded_whole_in_either_shape(world: World, shape: Any) -> None:
    report = write_sample(world.directory / f"{shape}.jsonl.zst", 300, shape=shape)
    pipeline = written(world, report.path, "--table", f"game.{shape}", "--name", "reports")
    final = world.load(f"{pipeline}:reports", report.path)
    assert (final.loaded, final.rejected) == (300, 0)
    assert world.ask(f"SELECT count(*) FROM game.{shape}") == [(300,)]
    if shape != "mixed":  # there the two envelopes have nothing in common, and no key is in every line
        assert world.ask(f"SELECT count(*) FROM game.{shape}_entries") == [(report.n_entries,)]
        assert world.ask(f"SELECT count(*) FROM game.{shape}_weapons") == [(report.n_weapons,)]


@pytest.mark.skipif(not pgcr_reports.real_names(), reason="the real reports are not here")
def test_the_real_reports_are_loaded_whole(world: World) -> None:
    lines = [pgcr_reports.line_of(name) for name in pgcr_reports.real_names()]
    data = world.directory / "real.jsonl"
    data.write_bytes(b"\n".join(lines))
    final = world.load(str(written(world, data, "--table", "game.real")), data)
    assert (final.loaded, final.rejected) == (len(lines), 0)


def test_typing_the_load_again_and_with_again_changes_nothing(world: World) -> None:
    data = store(world.directory / "shop.jsonl.zst", [{"id": n, "items": [{"sku": f"s{i}"} for i in range(3)]} for n in range(50)])
    pipeline = str(written(world, data, "--table", "lab.shop"))
    loading = [world.load(pipeline, data, again=again) for again in (False, True)]
    assert [(final.loaded, final.rejected) for final in loading] == [(50, 0)] * 2
    assert world.ask("SELECT count(*) FROM lab.shop_items") == [(150,)]
    looked_at = [(table.verdict, table.n_rows) for table in api.verify_run(world.url, loading[0].run, deep=True).tables]
    assert looked_at == [("stands", 50), ("stands", 150)]


def test_texts_with_nul_and_numbers_of_any_size_find_a_column(world: World) -> None:
    path = world.directory / "odd.jsonl"
    path.write_bytes(
        b'{"id": 1, "t": "a\\u0000b", "j": {"1": "\\u0000"}, "n": 0.12345678901234567890, "h": 1e200000, "user": 1, "xmin": 2}\n'
        b'{"id": 2, "t": "c", "j": {"2": 1}, "n": 123456789012345678901234567890, "h": 1, "user": 2, "xmin": 3}\n'
    )
    final = world.load(str(written(world, path, "--table", "lab.odd")), path)
    assert (final.loaded, final.rejected) == (2, 0)
    assert world.ask("SELECT t, n::text, h::text, user_, xmin_ FROM lab.odd ORDER BY id") == [
        ("a\ufffdb", "0.12345678901234567890", "1e200000", 1, 2),
        ("c", "123456789012345678901234567890", "1", 2, 3),
    ]


@settings(
    max_examples=2,
    phases=[phase for phase in Phase if phase not in (Phase.explain, Phase.shrink)],  # an example takes a second
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(DOCUMENTS)
def test_any_objects_are_loaded_by_what_was_made_of_them(world: World, documents: list[Document]) -> None:
    number = next(COUNTER)
    documents = [{**document, f"place {number}": n} for n, document in enumerate(documents)]
    path = world.directory / f"any{number}.jsonl"
    path.write_bytes(b"\n".join(dumped(documents)))
    pipeline = world.directory / f"any{number}.py"
    pipeline.write_text(scaffold(dumped(documents), Origin("any.jsonl", "all of them", True), table=f"lab.any{number}").text)
    final = world.load(str(pipeline), path)
    assert (final.loaded, final.rejected) == (len(documents), 0)
    assert world.ask(f"SELECT count(*) FROM lab.any{number}") == [(len(documents),)]


def test_every_word_that_postgresql_reserves_is_known(world: World) -> None:
    reserved = {word for (word,) in world.ask("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")}
    assert reserved - SQL_RESERVED == set()


def test_the_command_says_what_it_made_and_what_to_look_at(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n{"text": "a", "n": 1}\nno json\n')
    done = run(path)
    assert done.returncode == 0
    assert done.stdout.startswith('"""Lines of notes.jsonl as rows of PostgreSQL.\n')
    assert "def notes(line: Note) -> Note:" in done.stdout
    assert "3 lines of the sample give these rows: 3 in public.notes" in done.stderr
    assert "note: no key was found" in done.stderr
    assert "note: 1 of 4 lines is no JSON" in done.stderr
    assert str(tmp_path) not in done.stdout


@pytest.mark.parametrize(
    ("text", "arguments", "word"),
    [
        ("a;b;c\n1;2;3\n", [], "columns with semicolons"),
        ("[1]\n[2]\n", [], "JSON arrays"),
        ("", [], "no lines"),
        ('{"id": 1}\n', ["--key", "x"], "--key x"),
        ('{"id": 1}\n', ["--name", "a-b"], "--name a-b"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_nothing_is_written(tmp_path: Path, text: str, arguments: list[str], word: str) -> None:
    path = tmp_path / "x.txt"
    path.write_text(text)
    done = run(path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = run(tmp_path / "nothing.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such file" in done.stderr


def test_the_file_goes_to_stdout_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1, "class": "\u2028"}\n')
    command = [str(Path(sys.executable).with_name("protheon")), "scaffold", "a.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "LC_ALL": "C"}, capture_output=True, check=False)
    assert done.returncode == 0
    compile(done.stdout, "a.py", "exec")
    assert done.stdout.endswith(b"    return line\n")


@pytest.mark.slow
def test_a_scaffold_is_nearly_as_fast_as_a_hand_written_pipeline(database: str) -> None:
    command = [sys.executable, "-m", "benchmarks.scaffold", "--lines", "5000", "--rounds", "6"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PROTHEON_BENCH_URL": database}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ratio_cpu"] >= 0.8, done.stdout
