"""Every code block of docs/pipelines.md, and README's ten-line pipeline, through one real local cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import zstandard

from protheon_dask.errors import ConfigError, TargetRefused
from protheon_dask.pipelines.find import find
from protheon_dask.run import api
from protheon_dask.telemetry.statistics import RunStatistics
from tests.fixtures.cluster import ask, finish, load, local_cluster
from tests.fixtures.postgres import fresh_database

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.py)\n")


def blocks(path: str, section: str = "") -> list[tuple[str, str]]:
    """Language and text of each fenced block of a page, or of one section of it."""
    text = (ROOT / path).read_text()
    part = text.partition(f"## {section}\n")[2].partition("\n## ")[0] if section else text
    return [(match[1], match[2]) for match in FENCED.finditer(part)]


def of_language(found: Sequence[tuple[str, str]], language: str) -> list[str]:
    return [text for name, text in found if name == language]


PAGE = (ROOT / "docs/pipelines.md").read_text()
DOCS, README = blocks("docs/pipelines.md"), blocks("README.md", "A pipeline in ten lines")
FILES = {FILE_NAME.match(text)[1]: text for text in of_language(DOCS + README, "python")}  # type: ignore[index]  # a block without a name fails here
REJECTS, DIFFERS, *WRONG = of_language(DOCS, "text")
[SHOWN] = of_language(DOCS, "json")
[ENTRY_POINTS] = of_language(DOCS, "toml")
COMMANDS = of_language(DOCS + README, "sh")
FORMS = ("by_struct", "by_dict", "by_bytes", "by_batch", "by_pandas", "by_polars", "by_arrow")
MISTAKES = ("wrong_annotation", "wrong_key")
OTHERS = ("lab", "shop", "words", "baskets", "test_by_struct", "orders")

START = datetime(2026, 3, 1, 6, tzinfo=UTC)
N_READINGS = 3_000


def test_no_block_is_left_out() -> None:
    assert sorted(FILES) == sorted(f"{name}.py" for name in (*FORMS, *MISTAKES, *OTHERS))
    assert {language for language, _ in DOCS + README} == {"python", "sh", "json", "text", "toml"}
    assert len(WRONG) == len(MISTAKES)
    assert len(FILES["orders.py"].splitlines()) <= 20  # its ten lines of code, imports and blank lines apart


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The pages' files in one directory; what they put into this process is taken back."""
    folder = tmp_path_factory.mktemp("pipelines")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "readings.jsonl").write_text(SHOWN)
    (folder / "orders-2026.jsonl.zst").write_bytes(zstandard.compress(b"\n".join(map(dump, ORDERS))))
    path, modules = list(sys.path), set(sys.modules)
    yield folder
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def cluster(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[api.LocalCluster]:
    with fresh_database(postgres_url) as url, local_cluster(tmp_path_factory.mktemp("home"), url) as cluster:
        yield cluster


@pytest.fixture
def url(cluster: api.LocalCluster) -> str:
    """The cluster's database without the tables of the test before."""
    with psycopg.connect(cluster.url) as conn:
        conn.execute("DROP SCHEMA IF EXISTS lab, shop, raw, pgcr CASCADE")
        conn.execute("DROP TABLE IF EXISTS public.readings CASCADE")
    return cluster.url


@dataclass(frozen=True)
class Loader:
    """Loads lines through a page's file in chunks of 500 lines."""

    cluster: api.LocalCluster
    folder: Path

    def __call__(self, name: str, lines: Sequence[bytes]) -> RunStatistics:
        path = self.folder / f"{name}.txt"
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return finish(self.cluster, load(self.cluster, str(self.folder / f"{name}.py"), path, chunk_lines=500, again=True))


@pytest.fixture
def run(cluster: api.LocalCluster, folder: Path, url: str) -> Loader:
    return Loader(cluster, folder)


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def rejects(url: str, run_id: int) -> dict[int, str]:
    rows = ask(url, "SELECT r.line, r.reason FROM protheon.reject r JOIN protheon.run_load l USING (load_id) WHERE l.run_id = %s", run_id)
    return dict(rows)


@dataclass(frozen=True)
class Reading:
    sensor: int
    at: datetime
    celsius: float | None

    def line(self, form: str) -> bytes:
        if form == "by_bytes":
            return f"{self.sensor};{self.at:%Y-%m-%dT%H:%M:%SZ};{'' if self.celsius is None else self.celsius}".encode()
        return dump({"sensor": self.sensor, "at": f"{self.at:%Y-%m-%dT%H:%M:%SZ}", "celsius": self.celsius})


def reading(no: int) -> Reading:
    celsius = None if no % 10 == 0 else -999.0 if no % 97 == 0 else 20 + no % 64 / 8
    return Reading(no % 7, START + timedelta(minutes=no), celsius)


@pytest.mark.parametrize("form", ["by_pandas", "by_polars", "by_arrow"])
def test_frames_refuse_the_number_in_a_string_with_the_reason_that_is_told(run: Loader, url: str, form: str) -> None:
    done = run(form, SHOWN.encode().splitlines())
    assert (done.loaded, done.filtered, done.rejected) == (1, 1, 3)
    told = rejects(url, done.run)
    assert [f"line {line}: {told[line]}" for line in (3, 4)] == REJECTS.splitlines()
    assert f"`{told[5]}`" in PAGE


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_rows_and_verdicts(run: Loader, url: str, form: str) -> None:
    readings = {no: reading(no) for no in range(1, N_READINGS + 1)}
    lines = {no: one.line(form) for no, one in readings.items()}
    cut = {no for no in lines if no % 101 == 0}
    blank = {no for no in lines if no % 50 == 1} - cut
    for no in cut | blank:
        lines[no] = lines[no].partition(b"202")[0].rstrip(b";") if no in cut else b" \r"
        del readings[no]
    empty = {no for no, one in readings.items() if one.celsius is None}
    cold = {no for no, one in readings.items() if one.celsius == -999.0}

    done = run(form, list(lines.values()))

    kept = [(one.sensor, one.at, one.celsius) for no, one in readings.items() if no not in empty | cold]
    assert sorted(ask(url, "SELECT sensor, at, celsius FROM lab.reading")) == sorted(kept)
    assert (done.state, done.loaded, done.filtered, done.blank) == ("succeeded", len(kept), len(empty), len(blank))
    found = rejects(url, done.run)
    assert set(found) == cold | cut
    assert {no for no, reason in found.items() if reason == "below absolute zero"} == cold
    if form == "by_bytes":
        assert all(f"`{found[no]}`" in (ROOT / "docs/pipelines.md").read_text() for no in cut)


def test_the_lines_that_are_shown_end_as_it_is_written(run: Loader, url: str) -> None:
    done = run("by_struct", SHOWN.encode().splitlines())
    assert (done.loaded, done.filtered, done.rejected) == (2, 1, 2)
    assert "".join(f"line {no}: {reason}\n" for no, reason in sorted(rejects(url, done.run).items())) == REJECTS


def test_a_line_goes_into_several_tables_each_by_its_rule(run: Loader, url: str) -> None:
    made: list[dict[str, Any]] = [
        {
            "id": no,
            "at": (START + timedelta(hours=no * 7 % 1000)).isoformat(),
            "customer": no % 13,
            "name": None if no % 4 == 0 else f"n{no}",
            "skus": [f"sku{no * k % 5}" for k in range(no % 4)],
        }
        for no in range(2_000)
    ]
    done = run("shop", [dump(line) for line in (*made, made[700], made[3])])

    assert (done.loaded, done.rejected) == (2_000, 2)
    assert ask(url, "SELECT purchase_id, customer_id, bought_at, basket FROM shop.purchase ORDER BY purchase_id") == [
        (line["id"], line["customer"], datetime.fromisoformat(line["at"]), line["skus"]) for line in made
    ]
    latest: dict[int, datetime] = {}
    names: dict[tuple[int, datetime], set[str | None]] = {}
    for line in made:
        at = datetime.fromisoformat(line["at"])
        latest[line["customer"]] = max(at, latest.get(line["customer"], at))
        names.setdefault((line["customer"], at), set()).add(line["name"])
    customers = ask(url, "SELECT customer_id, seen_at, name FROM shop.customer")
    assert {customer: at for customer, at, _ in customers} == latest
    assert all(name in names[customer, at] for customer, at, name in customers)
    sold = Counter((datetime.fromisoformat(line["at"]).date(), sku) for line in made for sku in line["skus"])
    assert {(day, sku): pieces for day, sku, pieces in ask(url, "SELECT day, sku, pieces FROM shop.sales")} == sold
    assert ask(url, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'shop' AND indexdef LIKE '%%(bought_at)'") == [(1,)]
    assert ask(url, "SELECT confrelid::regclass::text FROM pg_constraint WHERE conrelid = 'shop.purchase'::regclass AND contype = 'f'") == [
        ("shop.customer",)
    ]
    assert ask(url, "SELECT obj_description('shop.purchase'::regclass)") == [("One visit to the till.",)]
    joined = "shop.purchase JOIN protheon.chunk ON task_id = _protheon_chunk JOIN protheon.load AS l ON l.id = load_id"
    assert ask(url, f"SELECT path, count(*) FROM {joined} GROUP BY path") == [(str(run.folder / "shop.txt"), 2_000)]


def test_tables_as_values_take_tuples_and_dicts(run: Loader, url: str) -> None:
    words = [f"{'abcé'[no % 4]}{no % 9}" for no in range(1_200)]
    done = run("words", [word.encode() for word in words])
    assert (done.loaded, done.rejected) == (1_200, 0)
    assert dict(ask(url, "SELECT word, n FROM lab.word")) == Counter(words)
    assert dict(ask(url, "SELECT letter::text, count(*) FROM lab.letter GROUP BY 1")) == Counter(word[0] for word in words)


def test_a_part_is_refused_alone(run: Loader, url: str) -> None:
    done = run("baskets", [dump({"id": no, "prices": [1.5, -1.0, 2.0] if no % 100 == 0 else [0.5]}) for no in range(1_000)])
    assert (done.loaded, done.rejected, done.rejected_parts) == (1_000, 0, 10)
    assert ask(url, "SELECT count(*), sum(price) FROM lab.price") == [(1_010, 0.5 * 990 + 3.5 * 10)]
    assert set(ask(url, "SELECT part, reason FROM protheon.reject WHERE part IS NOT NULL")) == {("prices[1]", "a negative price")}


ORDERS: list[dict[str, Any]] = [
    {"id": no, "at": (START + timedelta(minutes=no)).isoformat(), "items": [{"price": 1.25}, {"price": no}][: no % 3]}
    for no in range(2_000)
]


def test_readmes_pipeline_loads(run: Loader, url: str) -> None:
    done = run("orders", [dump(order) for order in ORDERS])
    assert (done.loaded, done.rejected) == (2_000, 0)
    assert ask(url, "SELECT order_id, placed_at, total FROM shop.orders ORDER BY order_id") == [
        (order["id"], datetime.fromisoformat(order["at"]), sum(item["price"] for item in order["items"])) for order in ORDERS
    ]


@pytest.mark.slow
@pytest.mark.parametrize("commands", COMMANDS, ids=lambda text: text.splitlines()[0])
def test_the_commands_work(cluster: api.LocalCluster, folder: Path, url: str, commands: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG", "DATABASE_URL"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**kept, "PATH": path, "PROTHEON_HOME": cluster.settings.home, "PROTHEON_DATABASE_URL": url}
    done = subprocess.run(["sh", "-ec", commands], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "using the local master that is running already" in done.stderr
    assert done.stdout


@pytest.mark.parametrize(("name", "message"), list(zip(MISTAKES, WRONG, strict=True)))
def test_a_mistake_is_told_in_the_words_that_are_shown(folder: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find(str(folder / f"{name}.py"))
    assert f"{raised.value}\n" == message


def test_a_table_that_differs_is_refused_in_the_words_that_are_shown(run: Loader, url: str) -> None:
    with psycopg.connect(url) as conn:
        conn.execute("CREATE SCHEMA lab")
        conn.execute("CREATE TABLE lab.reading (sensor bigint, at timestamptz, celsius text, PRIMARY KEY (sensor, at))")
    with pytest.raises(TargetRefused) as raised:
        run("by_struct", SHOWN.encode().splitlines())
    assert f"{raised.value}\n" == DIFFERS


def test_an_entry_point_is_found_by_its_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [(group, points)] = tomllib.loads(ENTRY_POINTS)["project"]["entry-points"].items()
    installed = tmp_path / "lab_pipelines-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-pipelines\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items()))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [find(name).name for name in points] == ["by_struct"]


def test_the_test_of_a_pipeline_passes(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_by_struct.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
