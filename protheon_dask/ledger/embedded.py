"""The PostgreSQL that comes with Protheon: started by one command, on loopback, for one host, gone with its owner.

One directory holds all of it::

    data_dir/pgdata       the database cluster of PostgreSQL
    data_dir/passfile     the password, in libpq's own format, readable by its owner only
    data_dir/server.log   what the server says
    data_dir/start.lock   held while somebody starts it
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import filelock
import psutil

from protheon_dask.errors import ConfigError, LedgerUnavailable, MissingSetting, ProtheonError
from protheon_dask.ledger.connect import connect, translated
from protheon_dask.ledger.server_process import (
    FAST_END_S,
    HOST,
    POLL_S,
    START_S,
    Binaries,
    PidFile,
    ServerProcess,
    demotion,
    find_all_binaries,
    read_binaries,
    read_pid_file,
    run_initdb,
)

NAME = "protheon"  # of the superuser and of the database
MIB = 1 << 20
SHARED_BUFFERS_BYTES = 256 * MIB  # or an eighth of the memory, if that is less: workers need the rest
LOG_BYTES = 16 * MIB  # a longer server.log is set aside once as server.log.old at the next start
NO_PID = 2**31 - 1  # beyond every system's largest process number
ANSWER_S = 2  # a server on this host that is well answers at once
SETTINGS = {
    # Loading writes much WAL: rarer checkpoints write each page less often (PostgreSQL manual, "Populating a Database").
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "temp_buffers": "32MB",  # staging tables of a chunk stay in memory
    "maintenance_work_mem": "128MB",  # indexes and foreign keys are made at the end of a run
    "max_connections": "200",
    "jit": "off",  # statements are many and short
    "unix_socket_directories": "",  # one door: TCP on loopback, with a password
    "logging_collector": "off",  # stderr is server.log
    "log_line_prefix": "%m [%p] ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedPostgres:
    """A private PostgreSQL server over a directory; many processes may share it, the one that started it ends it.

    Not thread-safe. Usable as a context manager, which stops it.
    """

    def __init__(self, data_dir: Path, bin_dir: Path | None = None) -> None:
        """bin_dir: where initdb and postgres are; None: the embedded extra's wheel, else what the system has."""
        self._dir = data_dir.resolve()
        self._bin_dir = bin_dir
        self._pgdata = self._dir / "pgdata"
        self._passfile = self._dir / "passfile"
        self._server: ServerProcess | None = None

    def __enter__(self) -> EmbeddedPostgres:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> str:
        """Make sure that the server runs, making its data directory on first use, and return the URL of its database.

        Raises:     MissingSetting: no PostgreSQL is installed. ConfigError: the data belong to another major version, the password
                    file is lost, or the server refused to start. LedgerUnavailable: it did not answer in time. Nothing is left running.
        Guarantee:  two starters at once get the same server. It ends with the process that started it, however that dies;
                    after its kill -9 the next start recovers what was committed.
        """
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            demotion().let_through(self._dir)
        except OSError as exc:
            raise ConfigError(f"the embedded PostgreSQL cannot have its directory {self._dir}: {exc}") from exc
        with self._start_lock():
            if (url := self._wait_for_other()) is not None:
                return url
            self._disown_stale()
            binaries = self.choose_binaries()
            if not self._pgdata.exists():
                self._make(binaries)
            elif not self._passfile.exists():
                raise ConfigError(f"{self._passfile} is lost, and with it the way into {self._pgdata}: restore it from a backup")
            self._rotate_log()
            server = ServerProcess.start(binaries, self._pgdata, _settings(), self._dir / "server.log")
            url = self._url(server.port)
            try:
                self._ensure_database(server.port)
            except ProtheonError:
                server.stop()
                raise
            self._server = server
            return url

    def stop(self) -> None:
        """End the server if this object started it; one that another process started is left alone. Idempotent."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def running_url(self) -> str | None:
        """Return the URL of the server if one runs on this directory and answers, whoever started it; start nothing."""
        found = self._alive()
        if found is None or found.status != "ready":
            return None
        url = self._url(found.port)
        try:
            with connect(f"{url}&connect_timeout={ANSWER_S}", application="protheon embedded"):
                return url
        except ProtheonError:
            return None

    def is_running(self) -> bool:
        """Tell whether a server runs on this directory, whoever started it, also one that has no connection to spare."""
        return self._alive() is not None

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        """Keep other starters out. The system frees the lock of a process that dies."""
        lock = filelock.FileLock(self._dir / "start.lock")
        try:
            lock.acquire(timeout=2 * START_S)
        except filelock.Timeout as exc:
            raise LedgerUnavailable(f"another process has been starting PostgreSQL in {self._dir} for {2 * START_S:g} s") from exc
        try:
            yield
        finally:
            lock.release()

    def _url(self, port: int, database: str = NAME) -> str:
        return f"postgresql://{NAME}@{HOST}:{port}/{database}?passfile={quote(str(self._passfile), safe='/')}"

    def _alive(self) -> PidFile | None:
        """Read the pid file and tell whether its process is the one that wrote it: numbers are used again after a crash."""
        found = read_pid_file(self._pgdata)
        if found is None:
            return None
        try:
            return found if str(self._pgdata) in psutil.Process(found.pid).cmdline() else None
        except psutil.Error:
            return None

    def _wait_for_other(self) -> str | None:
        """Wait for a server of another owner until it answers or is gone."""
        deadline_s = time.monotonic() + FAST_END_S + START_S
        while (found := self._alive()) is not None:
            if (url := self.running_url()) is not None:
                return url
            if time.monotonic() > deadline_s:
                raise LedgerUnavailable(f"PostgreSQL, process {found.pid}, holds {self._pgdata} but does not answer; end it and try again")
            time.sleep(POLL_S * 10)
        return None

    def _disown_stale(self) -> None:
        """Let PostgreSQL see that the writer of a pid file is gone, where another process has its number by now.

        The rest of the file stays: by the shared memory named in it PostgreSQL finds backends that survived their postmaster.
        """
        pid_path = self._pgdata / "postmaster.pid"
        found = read_pid_file(self._pgdata)
        if found is not None and psutil.pid_exists(found.pid):
            _, _, rest = pid_path.read_text().partition("\n")
            pid_path.write_text(f"{NO_PID}\n{rest}")

    def choose_binaries(self) -> Binaries:
        """Pick the given, or the first, or for data that exist the first that fits. Raises MissingSetting, ConfigError; changes nothing."""
        candidates = [read_binaries(self._bin_dir)] if self._bin_dir is not None else find_all_binaries()
        if not candidates:
            raise MissingSetting(
                "no PostgreSQL is installed here: pip install 'protheon-dask[embedded]', or name a server of your own with --into URL"
            )
        if not self._pgdata.exists():
            return candidates[0]
        version = (self._pgdata / "PG_VERSION").read_text().strip()
        fitting = [binaries for binaries in candidates if str(binaries.major) == version]
        if not fitting:
            have = ", ".join(sorted({str(binaries.major) for binaries in candidates}))
            raise ConfigError(
                f"{self._pgdata} was made by PostgreSQL {version}, and here is only {have}: install PostgreSQL {version}, "
                "dump the data with it and load the dump anew (or pg_upgrade), or choose another data directory"
            )
        return fitting[0]

    def _make(self, binaries: Binaries) -> None:
        """Make the cluster. The password comes first, so that no cluster is ever without one; both are renamed into place."""
        password = secrets.token_hex(24)
        _write_private(self._passfile, f"{HOST}:*:*:{NAME}:{password}\n")
        once = self._dir / "password.once"
        _write_private(once, password + "\n")
        demotion().give(once)
        try:
            auth = ["--auth-host=scram-sha-256", "--auth-local=scram-sha-256", f"--pwfile={once}"]
            run_initdb(binaries, self._pgdata, [f"--username={NAME}", "--data-checksums", *auth])
        finally:
            once.unlink()

    def _ensure_database(self, port: int) -> None:
        url = self._url(port, "postgres")
        with connect(url, application="protheon embedded") as conn, translated(url):
            if conn.execute("SELECT 1 FROM pg_catalog.pg_database WHERE datname = 'protheon'").fetchone() is None:
                conn.execute("CREATE DATABASE protheon")

    def _rotate_log(self) -> None:
        log = self._dir / "server.log"
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.old"))


def _settings() -> dict[str, str]:
    shared_bytes = min(SHARED_BUFFERS_BYTES, psutil.virtual_memory().total // 8)
    return {**SETTINGS, "shared_buffers": f"{shared_bytes // MIB}MB"}


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, from its first byte on; complete or absent."""
    making = path.with_name(path.name + ".making")
    making.unlink(missing_ok=True)
    fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    making.replace(path)
