"""The embedded server against real processes: started, shared, killed, started again."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from protheon_dask.errors import ConfigError, MissingSetting
from protheon_dask.ledger.embedded import EmbeddedPostgres
from protheon_dask.ledger.server_process import Binaries, demotion, find_all_binaries, read_pid_file
from tests.fixtures.postgres import scratch_dir

GONE_S = 30.0  # far above what a fast shutdown takes, far below the time-out of a test
OWNER = """
import sys
from pathlib import Path
from protheon_dask.ledger.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.read()
server.stop()
"""
COMMAND = "import sys; from protheon_dask.cli.main import main; sys.exit(main())"


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch_dir() as root:
        yield root


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A data directory after its first start and stop; copied by each test that needs one."""
    with scratch_dir() as root:
        with EmbeddedPostgres(root / "db") as server:
            server.start()
        yield root / "db"


@pytest.fixture
def data_dir(made: Path, place: Path) -> Path:
    return Path(shutil.copytree(made, place / "db"))


def ask(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute(statement.encode()).fetchone()
    return row[0] if row else None


def run(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(statement.encode())


def own(data_dir: Path, env: dict[str, str] | None = None) -> tuple[subprocess.Popen[str], str]:
    """Start another process that owns the server, and return it with the URL that it got."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, data_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    assert owner.stdout is not None
    return owner, owner.stdout.readline().strip()


def test_db_serve_keeps_the_server_up_after_the_command_that_started_it(data_dir: Path) -> None:
    (home := data_dir.parent / "home").mkdir()
    data_dir = data_dir.rename(home / "postgres")
    owner, first = own(data_dir)
    env = {**os.environ, "PROTHEON_HOME": str(home)}
    command = [sys.executable, "-c", COMMAND, "db", "serve", "--database", "embedded"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as serving:
        assert serving.stdout is not None
        assert serving.stdout.readline().strip() == first
        close(owner)
        served = serving.stdout.readline().strip()
        assert ask(served, "SELECT 1") == 1
        with EmbeddedPostgres(data_dir) as other:  # another command
            assert other.start() == served
        assert ask(served, "SELECT 1") == 1
        serving.send_signal(signal.SIGINT)
        assert serving.wait(GONE_S) == 0
    assert not EmbeddedPostgres(data_dir).is_running()


def close(owner: subprocess.Popen[str]) -> None:
    with owner:
        assert owner.stdin is not None
        owner.stdin.close()


def postmaster(data_dir: Path) -> psutil.Process:
    found = read_pid_file(data_dir / "pgdata")
    assert found is not None
    return psutil.Process(found.pid)


@pytest.mark.slow
@pytest.mark.parametrize("binaries", find_all_binaries(), ids=lambda binaries: f"{binaries.major}-{binaries.bin_dir}")
def test_every_installed_postgres_can_be_the_embedded_one(binaries: Binaries, place: Path) -> None:
    with EmbeddedPostgres(place / "db", binaries.bin_dir) as server:
        url = server.start()

        assert server.running_url() == url
        assert int(str(ask(url, "show server_version_num"))) // 10_000 == binaries.major
        assert ask(url, "select current_user || ' ' || current_database()") == "protheon protheon"
        assert ask(url, "show data_checksums") == "on"
        assert ask(url, "show server_encoding") == "UTF8"
        assert ask(url, "show synchronous_commit") == "on"
    assert server.running_url() is None


def test_the_password_is_in_a_private_file_and_not_in_the_url(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        url = server.start()
        password = (data_dir / "passfile").read_text().strip().rsplit(":", 1)[1]

        assert len(password) >= 32
        assert password not in url
        assert stat.S_IMODE((data_dir / "passfile").stat().st_mode) == 0o600
        assert not list(data_dir.glob("password*"))
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url.split("?")[0], passfile="/nonexistent")


def test_it_listens_on_loopback_only(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        server.start()
        listening = {c.laddr.ip for c in postmaster(data_dir).net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_what_was_written_is_there_after_a_stop_and_a_start(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    run(server.start(), "create table kept as select 42 as n")
    server.stop()
    server.stop()

    assert ask(server.start(), "select n from kept") == 42
    server.stop()


def test_processes_that_start_it_at_once_share_one_server(place: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        owners = list(pool.map(own, [place / "db"] * 3))

    assert len({url for _, url in owners}) == 1
    assert owners[0][1].startswith("postgresql://")
    for owner, _ in owners:
        close(owner)


def test_one_who_did_not_start_it_does_not_stop_it(data_dir: Path) -> None:
    owner, url = own(data_dir)
    guest = EmbeddedPostgres(data_dir)

    assert guest.running_url() == guest.start() == url
    guest.stop()
    assert ask(url, "select 1") == 1
    close(owner)
    assert guest.running_url() is None


def test_it_ends_when_its_owner_is_killed(data_dir: Path) -> None:
    owner, url = own(data_dir)
    server = postmaster(data_dir)
    run(url, "create table kept as select 42 as n")
    with psycopg.connect(url):  # a client that stays must not hold it up
        owner.kill()
        gone, _ = psutil.wait_procs([server], timeout=GONE_S)
        assert gone
    close(owner)

    assert not (data_dir / "pgdata" / "postmaster.pid").exists(), "it was ended, not killed"
    with EmbeddedPostgres(data_dir) as again:
        assert ask(again.start(), "select n from kept") == 42


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has death signals")
def test_it_ends_when_its_tether_is_killed(data_dir: Path) -> None:
    owner, _ = own(data_dir)
    server = postmaster(data_dir)
    [tether] = [p for p in psutil.Process(owner.pid).children() if "protheon_dask.run.tether" in p.cmdline()]
    tether.kill()
    gone, _ = psutil.wait_procs([server], timeout=GONE_S)
    assert gone
    close(owner)


def test_what_was_committed_survives_kill_9_of_the_server(data_dir: Path) -> None:
    owner, url = own(data_dir)
    run(url, "create table kept as select 42 as n")
    postmaster(data_dir).kill()
    with EmbeddedPostgres(data_dir) as again:
        assert ask(again.start(), "select n from kept") == 42
        close(owner)
        assert ask(again.start(), "select n from kept") == 42, "the old owner's end is not the new server's"


def test_a_pid_file_whose_number_another_process_has_by_now_does_not_stop_a_start(data_dir: Path) -> None:
    owner, _ = own(data_dir)
    postmaster(data_dir).kill()
    close(owner)
    pid_path = data_dir / "pgdata" / "postmaster.pid"
    _, _, rest = pid_path.read_text().partition("\n")
    pid_path.write_text(f"{os.getpid()}\n{rest}")

    with EmbeddedPostgres(data_dir) as server:
        assert server.running_url() is None
        assert ask(server.start(), "select 1") == 1


def test_data_of_another_major_version_are_refused_with_what_to_do(data_dir: Path) -> None:
    (data_dir / "pgdata" / "PG_VERSION").write_text("12\n")
    with pytest.raises(ConfigError, match=r"made by PostgreSQL 12.*install PostgreSQL 12"):
        EmbeddedPostgres(data_dir).start()


def test_a_lost_password_file_is_named(data_dir: Path) -> None:
    (data_dir / "passfile").unlink()
    with pytest.raises(ConfigError, match="passfile is lost"):
        EmbeddedPostgres(data_dir).start()


def test_a_first_start_that_was_killed_half_way_is_begun_anew(place: Path) -> None:
    (place / "db" / "pgdata.making" / "base").mkdir(parents=True)
    (place / "db" / "passfile.making").write_text("half")
    with EmbeddedPostgres(place / "db") as server:
        assert ask(server.start(), "select 1") == 1
    assert not (place / "db" / "pgdata.making").exists()


def test_a_directory_without_postgres_is_a_missing_setting(place: Path) -> None:
    with pytest.raises(MissingSetting, match="initdb and postgres are expected"):
        EmbeddedPostgres(place / "db", place).start()


def test_a_server_that_refuses_to_start_says_why(data_dir: Path) -> None:
    with (data_dir / "pgdata" / "postgresql.conf").open("a") as conf:
        conf.write("no_such_setting = 1\n")
    server = EmbeddedPostgres(data_dir)
    with pytest.raises(ConfigError, match="no_such_setting"):
        server.start()
    assert server.running_url() is None


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root must become somebody else")
def test_where_user_namespaces_are_forbidden_root_starts_it_as_nobody(place: Path) -> None:
    tools = place / "bin"
    tools.mkdir()
    for tool in ("setpriv", "true"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    place.chmod(0o711)
    owner, url = own(place / "db", {**os.environ, "PATH": str(tools)})
    try:
        assert ask(url, "select 1") == 1
        assert postmaster(place / "db").uids().real == 65534
    finally:
        close(owner)
    assert demotion().owner_uid is None, "this process itself still has the better way"
