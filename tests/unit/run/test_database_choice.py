"""Which database a command loads into, and that no message and no picture of it shows a password."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

import protheon_dask as protheon
from protheon_dask.config import Effective, Settings
from protheon_dask.errors import ConfigError
from protheon_dask.ledger.connect import spelled_out
from protheon_dask.run import api
from protheon_dask.run.cluster import Cluster
from protheon_dask.run.local import announce, announce_database
from protheon_dask.run.trust import founding
from protheon_dask.run.trust.authority import Authority
from tests.fixtures import tls

URL = "postgresql://me:secret@db/x"


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment that names no database."""
    for variable in ("DATABASE_URL", *api.LIBPQ_VARIABLES):
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


def effective(environ: dict[str, str] | None = None, file: dict[str, Any] | None = None, **given: str) -> Effective:
    return Settings.read(environ or {}, file or {}, given)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://me:secret@db/x", "mysql://db is not a PostgreSQL URL"),
        ("mysql://me:secret@db/x?a=b", "mysql://db is not a PostgreSQL URL"),
        ("postgresql+psycopg://me:secret@db/x", r"write postgresql:// for postgresql\+psycopg://"),
        ("postgres+asyncpg://me:secret@db/x", r"write postgresql:// for postgres\+asyncpg://"),
        ("me:secret@db", "is not a PostgreSQL URL"),
    ],
)
def test_a_url_that_is_not_postgresqls_is_refused_without_its_password(env: pytest.MonkeyPatch, url: str, told: str) -> None:
    env.setenv("DATABASE_URL", url)
    with pytest.raises(ConfigError, match=told) as caught:
        api.resolve_database(effective(), None)
    assert "DATABASE_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_database_can_be_printed_without_its_password() -> None:
    assert "secret" not in repr(api.Database(URL, URL, "--into"))


def test_the_direct_url_is_left_aside_where_another_place_names_the_database(env: pytest.MonkeyPatch) -> None:
    directly = {"PROTHEON_DIRECT_URL": "postgresql://direct/x"}
    assert api.resolve_database(effective(directly, database_url=URL), None).direct_url == "postgresql://direct/x"
    assert api.resolve_database(effective(directly, {"database_url": URL}), None).direct_url == "postgresql://direct/x"
    assert api.resolve_database(effective(directly, database_url=URL), "postgresql://other/x").direct_url == ""
    env.setenv("PGHOST", "other")
    assert api.resolve_database(effective(directly), None).direct_url == ""
    env.setenv("DATABASE_URL", "postgresql://other/x")
    assert api.resolve_database(effective(directly), None).direct_url == ""


def test_a_direct_url_that_is_given_with_into_is_taken(env: pytest.MonkeyPatch) -> None:
    assert api.resolve_database(effective(direct_url="postgresql://direct/x"), URL).direct_url == "postgresql://direct/x"


STANDING = api.Database(URL, "postgresql://direct/x", "--into")
KILLED = 2**22 + 1  # no process has this number


def test_commands_that_name_no_database_load_into_that_of_the_master_that_stands_here(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = effective(home=str(tmp_path))
    assert api.resolve_database(own, None).embedded
    announced = announce_database(tmp_path, "a", os.getpid(), STANDING)
    assert stat.S_IMODE(announced.stat().st_mode) == 0o600
    found = api.resolve_database(own, None)
    assert (found.url, found.direct_url, found.origin) == (URL, "postgresql://direct/x", f"the master that process {os.getpid()} runs")
    assert api.resolve_database(own, None, embedded=True).embedded
    env.setenv("DATABASE_URL", "postgresql://other/x")
    assert api.resolve_database(own, None).url == "postgresql://other/x"
    env.delenv("DATABASE_URL")
    announced.unlink()
    assert api.resolve_database(own, None).embedded


def test_where_nobody_names_a_database_a_machine_of_a_cluster_says_that_the_embedded_one_is_not_the_clusters(
    env: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    founder, host, alone = (effective(home=str(tmp_path / name)) for name in ("nuc", "macbook", "alone"))
    founding.init(founder.settings, "nuc", [])
    tls.joined(Authority.open(tmp_path / "nuc"), "macbook", tmp_path / "macbook", "192.168.1.10:50051")
    assert "on which no master stands now: start `protheon master`" in api.resolve_database(founder, None).notice
    assert 'a host of 192.168.1.10:50051; what is loaded there is seen there, or in Python by protheon.connect("192.168.1.10:50051")' in (
        api.resolve_database(host, None).notice
    )
    assert [api.resolve_database(alone, None).notice, api.resolve_database(host, URL).notice] == ["", ""]
    assert api.resolve_database(host, None, embedded=True).notice == ""
    announce_database(tmp_path / "nuc", "a", os.getpid(), STANDING)
    assert api.resolve_database(founder, None).notice == ""


def test_a_master_that_was_killed_is_meant_until_another_stands(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = effective(home=str(tmp_path))
    announce_database(tmp_path, "a", KILLED, STANDING)
    announce(tmp_path, "a", "127.0.0.1:1", os.getpid()).unlink()  # a command went on with its run, and has ended
    assert api.resolve_database(own, None).origin == f"the master that process {KILLED} ran until it was killed"
    announce_database(tmp_path, "b", os.getpid(), api.Database("postgresql://db/y", "", "--into"))
    assert api.resolve_database(own, None).url == "postgresql://db/y"
    (tmp_path / "standing-master-c.json").write_text("half")
    assert api.resolve_database(own, None).url == "postgresql://db/y"


def test_of_two_masters_that_stand_here_the_database_is_asked_for_without_a_password(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    announce_database(tmp_path, "a", os.getpid(), STANDING)
    announce_database(tmp_path, "b", os.getpid(), api.Database("postgresql://me:secret@db/y", "", "--into"))
    with pytest.raises(api.SeveralMasters, match=r"which database is meant, of database .* and database .* name one by --into") as caught:
        api.resolve_database(effective(home=str(tmp_path)), None)
    assert "secret" not in str(caught.value)


def test_a_url_that_leans_on_variables_is_spelled_out_for_others(env: pytest.MonkeyPatch) -> None:
    assert spelled_out(URL) == URL
    env.setenv("PGHOST", "db.lan")
    env.setenv("PGPASSWORD", "a b'c")
    for name, value in (("host", "db.lan"), ("password", "a b'c"), ("dbname", "games")):
        assert conninfo_to_dict(spelled_out("postgresql:///games"))[name] == value


@pytest.mark.parametrize("call", [protheon.local, lambda **given: protheon.connect("127.0.0.1:1", **given)], ids=["local", "connect"])
def test_a_script_that_names_no_database_or_no_setting_is_refused_before_anything_is_made(
    env: pytest.MonkeyPatch, tmp_path: Path, call: Callable[..., Cluster]
) -> None:
    env.setenv("PROTHEON_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="is not a PostgreSQL URL"):
        call(into="mysql://db/x")
    with pytest.raises(ConfigError, match="there is no setting 'lease_seconds'"):
        call(lease_seconds=30)
    assert list(tmp_path.iterdir()) == []
