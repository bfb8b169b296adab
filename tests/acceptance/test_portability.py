"""Everything imports and works where the modules of POSIX do not exist: in real processes that cannot import them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.test_cli_demo import PROTHEON, environment

BLOCK = Path(__file__).parents[1] / "portability"

IMPORT_ALL = """
import importlib, json, pkgutil, sys
import protheon_dask
refused = {}
for module in pkgutil.walk_packages(protheon_dask.__path__, "protheon_dask."):
    try:
        importlib.import_module(module.name)
    except Exception as exc:
        refused[module.name] = repr(exc)
print(json.dumps([refused, [name for name in sys.modules if name.startswith("protheon_dask.")]]))
"""


def without_posix(env: dict[str, str], log: Path) -> dict[str, str]:
    """The environment in which a process and its children have none of the modules; each writes a line to the log."""
    return env | {"PYTHONPATH": str(BLOCK), "PROTHEON_TEST_BLOCKED": str(log)}


def python(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    env = without_posix(dict(os.environ), tmp_path / "log")
    return subprocess.run([sys.executable, "-P", "-c", code], env=env, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("module", ["fcntl", "resource", "pwd", "grp"])
def test_the_block_holds_also_after_a_library_has_imported_one(module: str, tmp_path: Path) -> None:
    for code in (f"import psutil, filelock, {module}", f"import importlib; importlib.import_module({module!r})"):
        done = python(code, tmp_path)
        assert done.returncode == 1
        assert done.stderr.endswith(f"ModuleNotFoundError: No module named {module!r}\n")


def test_every_module_imports_without_them(tmp_path: Path) -> None:
    done = python(IMPORT_ALL, tmp_path)
    assert done.returncode == 0, done.stderr
    refused, loaded = json.loads(done.stdout)
    assert refused == {}
    assert {f"protheon_dask.{name}" for name in ("run.worker", "run.preload_worker", "run.broker", "run.local", "cli.demo")} <= set(loaded)


@pytest.mark.slow
def test_a_whole_cluster_starts_and_loads_without_them(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [PROTHEON, "demo", "--lines", "4000", "--workers", "2", "--json"]
    env = without_posix(environment(tmp_path / "home"), log)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["state"], told["lines"], told["lost"]) == ("succeeded", 4_000, 0)
    processes = log.read_text()
    for module in (
        "protheon_dask.run.tether",
        "protheon_dask.run.broker",
        "dask scheduler",
        "dask worker",
        "workspace.splitter",
        "spawn_main",
    ):
        assert module in processes, f"no process of {module} ran under the block"
