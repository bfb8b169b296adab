"""Post game carnage reports through the whole product: real ones in both shapes, and one line of 46 MB among ordinary ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from protheon_dask.pipelines.pgcr import pgcr
from protheon_dask.pipelines.sample import as_api, sample_lines
from protheon_dask.run import api
from protheon_dask.telemetry.statistics import RunStatistics
from tests.fixtures.cluster import ask, finish, load, local_cluster
from tests.fixtures.pgcr_reports import BY_HAND, FOLDER, Tables, line_of, real_names
from tests.fixtures.postgres import fresh_database

here = pytest.mark.skipif(not FOLDER.is_dir(), reason="the real reports are not here")

BIG_LINE_BYTES = 46_000_000
MAX_WORKER_BYTES = 800_000_000


@pytest.fixture(scope="module")
def cluster(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[api.LocalCluster]:
    with fresh_database(postgres_url) as url, local_cluster(tmp_path_factory.mktemp("home"), url) as cluster:
        yield cluster


def load_reports(cluster: api.LocalCluster, path: Path, lines: Sequence[bytes], chunk_lines: int) -> RunStatistics:
    """Load these lines into new tables."""
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    with psycopg.connect(cluster.url) as conn:
        conn.execute("DROP SCHEMA IF EXISTS pgcr CASCADE")
    done = finish(cluster, load(cluster, "pgcr", path, chunk_lines=chunk_lines, again=True))
    assert (done.state, done.lines, done.loaded, done.rejected_parts) == ("succeeded", len(lines), len(lines), 0)
    return done


def stored(url: str) -> Tables:
    """Every column of every row of the five tables, in the pipeline's order, sorted."""
    with psycopg.connect(url) as conn:
        conn.execute("SET timezone = 'UTC'")
        selects = [
            sql.SQL("SELECT {} FROM {}").format(
                sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns), sql.Identifier(table.schema, table.relation)
            )
            for table in pgcr.tables
        ]
        return [sorted(conn.execute(select).fetchall(), key=repr) for select in selects]


def as_dump(line: bytes) -> bytes:
    """Turn the API's answer into a report of the dump: no envelope, flat numbers, whole ones as integers."""
    report = json.loads(line)["Response"]

    def flat(value: Any) -> Any:
        if isinstance(value, dict) and "basic" in value:
            number = value["basic"]["value"]
            return int(number) if float(number).is_integer() else number
        if isinstance(value, dict):
            return {name: flat(member) for name, member in value.items()}
        return [flat(member) for member in value] if isinstance(value, list) else value

    number = report["activityDetails"]["instanceId"]
    return json.dumps({"_id": number, "archived": report["period"], **flat(report)}, separators=(",", ":")).encode()


def in_shape(name: str, shape: str) -> bytes:
    """A real report in the shape "api" or "dump", whichever its file has."""
    line = line_of(name)
    is_api = b'"Response"' in line
    if shape == "api":
        return line if is_api else as_api(line)
    return as_dump(line) if is_api else line


@here
def test_the_converter_gives_the_other_shape() -> None:
    api_line, dump_line = in_shape("duo", "api"), in_shape("duo", "dump")
    assert b'"basic"' in api_line
    assert b'"basic"' not in dump_line
    assert b'"kills":299,' in dump_line
    assert as_dump(in_shape("dataset", "api")) != in_shape("dataset", "api")


@here
@pytest.mark.parametrize("shapes", [("api",), ("dump",), ("api", "dump"), ("dump", "api")], ids="-".join)
def test_every_column_of_three_real_reports_is_what_the_eye_read(
    cluster: api.LocalCluster, tmp_path: Path, shapes: tuple[str, ...]
) -> None:
    lines = [in_shape(name, shapes[place % len(shapes)]) for place, name in enumerate(BY_HAND)]
    load_reports(cluster, tmp_path / "three.jsonl", lines, 2)
    expected = [sorted((row for tables in BY_HAND.values() for row in tables[i]), key=repr) for i in range(len(pgcr.tables))]
    assert stored(cluster.url) == expected


@here
def test_all_real_reports_in_both_shapes_mixed_are_stored_once(cluster: api.LocalCluster, tmp_path: Path) -> None:
    names = real_names()
    found: dict[str, Tables] = {}
    for shape in ("api", "dump"):
        load_reports(cluster, tmp_path / f"{shape}.jsonl", [in_shape(name, shape) for name in names], 3)
        found[shape] = stored(cluster.url)
    assert found["api"] == found["dump"]

    mixed = [in_shape(name, shape) for shape in ("dump", "api") for name in names]
    done = load_reports(cluster, tmp_path / "mixed.jsonl", mixed, 3)
    assert stored(cluster.url) == found["api"]
    counts = {count.table: count for count in done.rows}
    for table, rows in zip(pgcr.tables, found["api"], strict=True):
        assert counts[table.name].inserted == len(rows)
        assert table.shared or counts[table.name].ignored == len(rows)
    instances, players, *others = found["api"]
    ids = {tables[0][0][0] for tables in BY_HAND.values()}
    assert [row for row in instances if row[0] in ids] == sorted((tables[0][0] for tables in BY_HAND.values()), key=repr)
    for i, rows in enumerate(others, start=2):
        wanted = sorted((row for tables in BY_HAND.values() for row in tables[i]), key=repr)
        assert [row for row in rows if row[0] in ids] == wanted

    newest: dict[int, tuple[datetime, str | None]] = {}
    n_weapons = 0
    for name in names:
        report = json.loads(in_shape(name, "dump"))
        for entry in report["entries"]:
            user = entry["player"]["destinyUserInfo"]
            seen = datetime.fromisoformat(report["period"]), user.get("displayName")
            newest[int(user["membershipId"])] = max(seen, newest.get(int(user["membershipId"]), seen))
            n_weapons += len(entry.get("extended", {}).get("weapons") or ())
    assert {row[0]: (row[-1], row[2]) for row in players} == newest
    assert len(found["api"][4]) == n_weapons


def big_line(n_bytes: int) -> tuple[bytes, int, int]:
    """A report of at least n_bytes, as a checkpoint bot leaves them: its number of entries, each another player, and of weapons."""
    report = json.loads(next(sample_lines(1, seed=9)))
    [entry, *_] = [entry for entry in report["entries"] if entry["extended"].get("weapons")]
    report["activityDetails"]["instanceId"] = "99"
    report["entries"] = []
    player = entry["player"]["destinyUserInfo"]["membershipId"].encode()
    text = json.dumps(entry, separators=(",", ":")).encode()
    n_entries = n_bytes // len(text) + 1
    entries = b",".join(text.replace(b'"membershipId":"%s"' % player, b'"membershipId":"%d"' % (10**18 + i)) for i in range(n_entries))
    line = json.dumps(report, separators=(",", ":")).encode().replace(b'"entries":[]', b'"entries":[%s]' % entries)
    return line, n_entries, n_entries * len(entry["extended"]["weapons"])


def peak_bytes(pid: int) -> int:
    """The largest resident memory that a process has had, as Linux counts it."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
def test_a_line_of_46_mb_among_ordinary_ones_loads_in_little_memory(cluster: api.LocalCluster, tmp_path: Path) -> None:
    ordinary = list(sample_lines(600))
    line, n_entries, n_weapons = big_line(BIG_LINE_BYTES)
    assert len(line) >= BIG_LINE_BYTES

    load_reports(cluster, tmp_path / "big.jsonl", [*ordinary[:300], line, *ordinary[300:]], 100)

    characters, weapons, players = (
        ask(cluster.url, f"SELECT count(*) FROM {table} WHERE instance_id = 99")[0][0]
        for table in ("pgcr.instance_character", "pgcr.instance_character_weapon", "pgcr.instance_player")
    )
    assert (characters, weapons, players) == (n_entries, n_weapons, n_entries)
    assert ask(cluster.url, "SELECT player_count FROM pgcr.instance WHERE instance_id = 99") == [(n_entries,)]
    assert ask(cluster.url, "SELECT count(*) FROM pgcr.instance") == [(601,)]
    if sys.platform == "linux":
        assert max(peak_bytes(pid) for _, pid in cluster.worker_pids()) < MAX_WORKER_BYTES
