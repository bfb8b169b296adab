"""The floor: ready-made rows, players merged already, by two psql at a time. No loader of these tables can be much faster."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.material import N_HALVES
from benchmarks.target import NAMES
from protheon_dask.ledger.server_process import find_all_binaries


def find_psql() -> Path | None:
    """A psql: that of the embedded server's own version, else the system's."""
    candidates = [binaries.bin_dir / "psql" for binaries in find_all_binaries()]
    if on_path := shutil.which("psql"):
        candidates.append(Path(on_path))
    return next((path for path in candidates if path.is_file()), None)


def load(psql: Path, url: str, directory: Path) -> float:
    """Load the files of each half by a psql of its own, both at once; seconds from their start to the end of the later one.

    Units: psql's own start and connection are in it, some 10 ms.
    Raises: CalledProcessError: psql says why on stderr.
    """
    env = {**os.environ, **_libpq_variables(url)}
    started_s = time.perf_counter()
    running = []
    for half in range(1, N_HALVES + 1):
        command = [str(psql), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
        for name in NAMES:
            command.append(f"--command=\\copy {name} from '{directory / f'{name}.{half}.bin'}' with (format binary)")
        running.append(subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    codes = [process.wait() for process in running]
    seconds = time.perf_counter() - started_s
    for process, code in zip(running, codes, strict=True):
        if code:
            raise subprocess.CalledProcessError(code, process.args)
    return seconds


def _libpq_variables(url: str) -> dict[str, str]:
    """The URL as libpq's own variables: a password does not belong on a command line."""
    variables = {
        option.keyword.decode(): option.envvar.decode() for option in psycopg.pq.Conninfo.get_defaults() if option.envvar is not None
    }
    return {variables[name]: str(value) for name, value in conninfo_to_dict(url).items() if name in variables and value is not None}
