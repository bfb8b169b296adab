"""Notebooks as they are committed: without outputs or traces of a machine, by public names alone, and short enough to be read."""

from __future__ import annotations

import ast
import copy
import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import protheon_dask

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["01_first_load", "02_your_own_pipeline", "03_when_things_break", "04_explore_with_dask", "05_many_machines"]
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
MOST_LINES = 40  # of a cell: a screen
MOST_CHARACTERS = 110  # of a line of code: a cell is scrolled to the side for more
BEGINNING = ("**What you will see.**", "**What you need.**")

Notebook = dict[str, Any]


def read(path: Path) -> Notebook:
    found: Notebook = json.loads(path.read_text())
    return found


def faults(notebook: Notebook) -> list[str]:
    """What is wrong with a notebook, in words."""
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    found = [f"cell {cell['id']} has outputs" for cell in code if cell["outputs"]]
    found += [f"cell {cell['id']} has an execution count" for cell in code if cell["execution_count"] is not None]
    found += [f"cell {cell['id']} has metadata" for cell in cells if cell["metadata"]]
    found += [f"cell {cell['id']} is longer than a screen" for cell in cells if len(cell["source"]) > MOST_LINES]
    found += [f"cell {cell['id']} has a long line" for cell in code if max(map(len, cell["source"])) > MOST_CHARACTERS]
    if notebook["metadata"] != METADATA:
        found.append("its metadata are not those of every notebook")
    if not all(words in "".join(cells[0]["source"]) for words in BEGINNING):
        found.append("it does not begin with what one will see and needs")
    if "".join(code[-1]["source"]).splitlines()[-1] != "cluster.close()":
        found.append("it does not end its cluster")
    for cell in code:
        found += [f"cell {cell['id']}: {fault}" for fault in _of_code("".join(cell["source"]))]
    return found


def _of_code(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    if alias.name == "protheon_dask" and alias.asname != "protheon":
                        yield "protheon_dask is imported as protheon"
                    yield from _of_module(alias.name)
            case ast.ImportFrom(module=str(module)):
                yield from _of_module(module)
            case ast.Attribute(value=ast.Name(id="protheon"), attr=name) if name not in protheon_dask.__all__:
                yield f"protheon.{name} is no public name"
            case ast.Attribute(value=ast.Name(id="os"), attr="_exit"):
                pass  # Python's own, and documented
            case ast.Attribute(attr=name) if name.startswith("_") and not name.endswith("__"):
                yield f".{name} is private"
            case _:
                pass


def _of_module(name: str) -> Iterator[str]:
    top = name.partition(".")[0]
    if name.startswith("protheon_dask."):
        yield f"{name} is not public: import protheon_dask as protheon"
    elif top not in {"protheon_dask", *sys.stdlib_module_names, *dependencies()}:
        yield f"{name} does not come with the package"


def dependencies() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {Requirement(item).name.replace("-", "_") for item in project["dependencies"]}


def test_there_are_five() -> None:
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_is_before_it_was_run(path: Path) -> None:
    assert faults(read(path)) == []


def _code(notebook: Notebook) -> Notebook:
    return next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")


BROKEN: dict[str, Callable[[Notebook], object]] = {
    "has outputs": lambda notebook: _code(notebook)["outputs"].append({"output_type": "stream"}),
    "has an execution count": lambda notebook: _code(notebook).update(execution_count=3),
    "has metadata": lambda notebook: notebook["cells"][0]["metadata"].update(collapsed=True),
    "its metadata are not": lambda notebook: notebook["metadata"]["language_info"].update(version="3.11.7"),
    "longer than a screen": lambda notebook: _code(notebook)["source"].extend(["1\n"] * MOST_LINES),
    "has a long line": lambda notebook: _code(notebook)["source"].append("#" * (MOST_CHARACTERS + 1)),
    "it does not begin": lambda notebook: notebook["cells"].pop(0),
    "it does not end": lambda notebook: notebook["cells"].append({**_code(notebook), "source": ["1"]}),
    "protheon.undo is no public name": lambda notebook: _code(notebook).update(source=["protheon.undo(3)"]),
    "._link is private": lambda notebook: _code(notebook).update(source=["cluster._link"]),
    "protheon_dask.run.api is not public": lambda notebook: _code(notebook).update(source=["from protheon_dask.run.api import local"]),
    "imported as protheon": lambda notebook: _code(notebook).update(source=["import protheon_dask"]),
    "sklearn does not come": lambda notebook: _code(notebook).update(source=["import sklearn"]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_each_fault_of_a_notebook_is_found(fault: str) -> None:
    notebook = copy.deepcopy(read(NOTEBOOKS[0]))
    BROKEN[fault](notebook)
    assert [told for told in faults(notebook) if fault in told]
