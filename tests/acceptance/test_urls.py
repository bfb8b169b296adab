"""Sources behind URLs, through the whole product: web servers, an S3 server, members of zip files."""

from __future__ import annotations

import socket
import zipfile
from collections.abc import Iterator

import pytest
import zstandard

from protheon_dask.errors import ConfigError, NotFound, SourceUnavailable
from protheon_dask.pipelines.find import find
from protheon_dask.run import api
from protheon_dask.telemetry.statistics import RunStatistics
from tests.acceptance.conftest import World, numbers, write_pipeline
from tests.fixtures.cluster import wait_until
from tests.fixtures.web import WebServer

BUCKET = "reports"
SECRET = "tops3cretkey"
LINES = b"".join(b"%d\n" % n for n in range(5_000))
PACKED = b"".join(zstandard.compress(LINES[i : i + 8_000]) for i in range(0, len(LINES), 8_000))


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that speaks S3, and the environment that leads to it, for the cluster too."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(tmp_path_factory.getbasetemp() / "no aws config"),
        }.items():
            patch.setenv(name, value)
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module", autouse=True)
def _before_the_cluster(s3: str) -> None:
    """The cluster gets the environment as it is at its start."""


@pytest.fixture(scope="module")
def bucket(s3: str) -> str:
    import boto3

    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="2026/whole.zst", Body=PACKED)
    client.put_object(Bucket=BUCKET, Key="2026/plain.jsonl", Body=b"5000\n5001\n")
    client.put_object(Bucket=BUCKET, Key="2026/deeper/other.jsonl", Body=b"1\n")
    return f"s3://{BUCKET}"


def load(world: World, table: str, *urls: str) -> RunStatistics:
    pipeline = find(write_pipeline(world.directory, table), paths=list(urls))
    return world.finish(world.cluster.client.submit(pipeline, list(urls), chunk_lines=1_000).run_id)


def ledger_of(world: World) -> str:
    """Every row of the ledger as text."""
    tables = world.ask("SELECT table_name FROM information_schema.tables WHERE table_schema = 'protheon' AND table_type = 'BASE TABLE'")
    return str([world.ask(f"SELECT to_jsonb(t)::text FROM protheon.{name} AS t") for (name,) in tables])


@pytest.mark.parametrize("how", [{}, {"tells_size": False, "ranges": False}], ids=str)
def test_a_file_of_a_web_server_is_loaded_once_whatever_its_server_can_do(
    world: World, web_server: WebServer, how: dict[str, bool]
) -> None:
    table = f"web_{len(how)}"
    web_server.add("/reports.zst", PACKED, **how)
    done = load(world, table, web_server.url("/reports.zst"))
    assert (done.state, done.reason, done.loaded) == ("succeeded", None, 5_000)
    assert numbers(world.url, table) == list(range(5_000))
    assert load(world, table, web_server.url("/reports.zst")).skipped_files == 1


def test_urls_that_differ_only_in_what_is_hidden_are_each_read_by_their_own(world: World, web_server: WebServer) -> None:
    web_server.add("/export?key=may", LINES[:990])
    web_server.add("/export?key=june", LINES[990:])
    done = load(world, "hidden_keys", *(web_server.url(f"/export?key={month}") for month in ("may", "june")))
    assert (done.state, done.reason) == ("succeeded", None)
    assert numbers(world.url, "hidden_keys") == [int(n) for n in LINES.split()]
    assert "june" not in ledger_of(world)


@pytest.mark.slow
def test_a_server_that_fails_in_the_middle_is_waited_for_in_sight(world: World, web_server: WebServer) -> None:
    content = b"".join(b"%d\n" % n for n in range(300_000))
    resource = web_server.add("/flaky", content, breaks_at=len(content) - 10, good=4)
    pipeline = find(write_pipeline(world.directory, "flaky"), paths=[web_server.url("/flaky")])
    run = world.cluster.client.submit(pipeline, [web_server.url("/flaky")], chunk_lines=50_000).run_id
    reason = wait_until(lambda: world.cluster.client.get(run).reason)
    assert "UTC: " + web_server.url("/flaky") + ": cannot be read on host" in reason
    assert "it is tried again at least every 10 s" in reason
    resource.breaks = 0
    done = world.finish(run)
    assert (done.state, done.reason, done.loaded) == ("succeeded", None, 300_000)
    assert numbers(world.url, "flaky") == list(range(300_000))


def test_a_password_in_a_url_opens_the_door_and_is_kept_nowhere(world: World, web_server: WebServer) -> None:
    web_server.add("/locked", LINES, password="ann:w0rd-of-ann")
    url = web_server.url("/locked", "ann:w0rd-of-ann") + "?sig=s1gnature"
    done = load(world, "locked", url)
    assert (done.state, done.loaded) == ("succeeded", 5_000)
    shown = web_server.url("/locked", "ann:***") + "?sig=***"
    assert done.paths == (shown,)
    assert [file["path"] for file in api.report(world.url, "files", done.run)] == [shown]
    web_server.resources["/locked"].password = "ann:another word"
    with pytest.raises(ConfigError, match="may not be read") as caught:
        load(world, "locked", url)
    logs = list(world.directory.parent.rglob("home/logs/broker.log"))
    assert logs
    kept = str(caught.value) + ledger_of(world) + "".join(path.read_text() for path in logs)
    assert "ann:***" in kept
    assert "w0rd-of-ann" not in kept
    assert "s1gnature" not in kept


@pytest.mark.parametrize(("status", "error"), [(404, NotFound), (403, ConfigError), (500, SourceUnavailable)])
def test_what_a_server_refuses_is_said_at_once(world: World, web_server: WebServer, status: int, error: type[Exception]) -> None:
    web_server.add("/a", b"1\n", status=status)
    with pytest.raises(error, match=f"/a: .* {status}") as caught:
        load(world, "refused", web_server.url("/a"))
    assert type(caught.value) is error


def test_objects_of_a_bucket_are_loaded_by_name_by_glob_and_by_folder(world: World, bucket: str) -> None:
    done = load(world, "s3_named", f"{bucket}/2026/whole.zst")
    assert (done.state, done.reason, done.loaded) == ("succeeded", None, 5_000)
    assert numbers(world.url, "s3_named") == list(range(5_000))
    assert load(world, "s3_named", f"{bucket}/2026/*").skipped_files == 1
    assert numbers(world.url, "s3_named") == list(range(5_002))
    assert load(world, "s3_named", f"{bucket}/2026").skipped_files == 2
    assert SECRET not in ledger_of(world)


@pytest.mark.parametrize("name", ["2026/none.zst", "2026/*.parquet"])
def test_objects_that_are_not_there_are_named(world: World, bucket: str, name: str) -> None:
    with pytest.raises(NotFound, match="no such file") as caught:
        load(world, "s3_none", f"{bucket}/{name}")
    assert f"{bucket}/{name}" in str(caught.value)


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_the_operators(world: World) -> None:
    with pytest.raises(ConfigError, match=r"s3://no-such-bucket/a\.zst"):
        load(world, "s3_no_bucket", "s3://no-such-bucket/a.zst")


def test_members_of_a_zip_file_are_sources(world: World) -> None:
    archive = world.directory / "reports.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.zst", PACKED)
        made.writestr("b.jsonl", "5000\n")
        made.writestr("c.txt", "7\n")
    assert load(world, "zipped", f"zip://a.zst::{archive}").loaded == 5_000
    done = load(world, "zipped", f"zip://b.json*::{archive}")
    assert (done.state, done.loaded) == ("succeeded", 1)
    assert numbers(world.url, "zipped") == list(range(5_001))
    with pytest.raises(NotFound, match="no such file"):
        load(world, "zipped", f"zip://none::{archive}")
    archive.write_bytes(b"no zip at all")
    with pytest.raises(ConfigError, match="not a zip file"):
        load(world, "zipped", f"zip://a.zst::{archive}")


def test_a_file_url_is_the_local_file(world: World) -> None:
    path = world.directory / "with blank.txt"
    path.write_bytes(LINES)
    assert load(world, "file_url", path.as_uri()).loaded == 5_000
    assert load(world, "file_url", str(path)).skipped_files == 1


def test_a_server_that_is_not_there_says_so(world: World) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and not listening: refused
        with pytest.raises(SourceUnavailable, match="cannot be read on host"):
            load(world, "nobody", f"http://127.0.0.1:{bound.getsockname()[1]}/a")
