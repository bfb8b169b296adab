"""DuckDB with its postgres extension, in an environment and a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements-duckdb.txt"
SCRIPT = HERE / "duckdb_contestant" / "load.py"


@dataclass(frozen=True, slots=True)
class DuckDB:
    """The rival, installed."""

    python: Path

    def load(self, url: str, source: Path, *, is_parallel: bool) -> float:
        """Load the source into the five tables; seconds from the open, attached database to the last row.

        Raises: CalledProcessError: DuckDB says why on stderr.
        """
        command = [str(self.python), str(SCRIPT), str(source), *(["--parallel"] if is_parallel else [])]
        done = subprocess.run(command, env={**os.environ, "PROTHEON_BENCH_TARGET": url}, stdout=subprocess.PIPE, text=True, check=True)
        return float(json.loads(done.stdout)["total"])


def install(directory: Path) -> DuckDB | str:
    """Make the rival's environment in directory, unless it is there; the reason where it cannot be had."""
    bin_dir = directory / ("Scripts" if sys.platform == "win32" else "bin")
    rival = DuckDB(bin_dir / "python")
    made = directory / ".made"
    wanted = REQUIREMENTS.read_text()
    if made.exists() and made.read_text() == wanted:
        return rival
    uv = shutil.which("uv")
    if uv is not None:
        steps = [
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(directory)],
            [uv, "pip", "install", "--quiet", "--python", str(rival.python), "-r", str(REQUIREMENTS)],
        ]
    else:
        steps = [
            [sys.executable, "-m", "venv", "--clear", str(directory)],
            [str(rival.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(REQUIREMENTS)],
        ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr or done.stdout).strip().splitlines()[-1]
    made.write_text(wanted)
    return rival
