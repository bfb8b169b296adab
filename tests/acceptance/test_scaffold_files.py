"""The files that ``protheon scaffold`` writes, by the judgement of ruff and mypy, and the same in every process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from protheon_dask.pipelines.sample import sample_lines
from protheon_dask.pipelines.scaffold.make import scaffold
from tests.unit.pipelines.test_scaffold import HEAD, SHAPES, made

ROOT = Path(__file__).parents[2]
RULES = "E,F,W,I,UP,B,SIM,C4,RUF,BLE,PTH,RET,ARG,ERA,PT,N"  # those of this repository


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scaffolds of all public shapes, of reports in their three forms, and of keys of all kinds."""
    folder = tmp_path_factory.mktemp("scaffolds")
    for shape in SHAPES:
        documents = list(shape(400))
        (folder / f"{shape.__name__}.py").write_text(made(documents, HEAD, table=f"lab.{shape.__name__}").text)
    for form in ("dump", "api", "mixed"):
        text = scaffold(list(sample_lines(200, shape=form)), HEAD, table=f"game.{form}").text
        (folder / f"reports_{form}.py").write_text(text)
    odd = {
        "a" * 90: {"b" * 90: 1, "ключ": [{"c" * 90: None}, None]},
        "長い名前" * 12: "\0",
        "e f": None,
        "Class": {"List": [], "Dict": 1.5, "9": "1.5"},
    }
    seldom = {"maybe" * 12: {"x" * 60: 1}, "n" * 40: "\0"}
    documents = [{"id": n, **odd, **(seldom if n else dict.fromkeys(seldom))} for n in range(30)]
    (folder / "odd.py").write_text(made(documents).text)
    return folder


@pytest.mark.parametrize("width", [88, 100, 140])
def test_a_file_is_formatted_at_any_usual_width(files: Path, width: int) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run(
        [ruff, "format", "--isolated", "--diff", "--line-length", str(width), "."], cwd=files, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_file_keeps_the_rules_of_ruff_and_the_types_of_mypy(files: Path) -> None:
    ruff = [Path(sys.executable).with_name("ruff"), "check", "--isolated", "--select", RULES, "--line-length", "140", "."]
    done = subprocess.run(ruff, cwd=files, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(ROOT / ".mypy_cache"), *files.glob("*.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_same_lines_give_the_same_file() -> None:
    code = (
        "import json; from tests.fixtures.public_lines import stripe_events as f; from protheon_dask.pipelines.scaffold.make import *\n"
        "lines = [json.dumps(d).encode() for d in f(300)]; print(hash(scaffold(lines, Origin('x', 'y', False), table='t').text) * 0, "
        "__import__('hashlib').md5(scaffold(lines, Origin('x', 'y', False), table='t').text.encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": str(seed)}, capture_output=True, text=True, check=True
        ).stdout
        for seed in (1, 2)
    }
    assert len(found) == 1
