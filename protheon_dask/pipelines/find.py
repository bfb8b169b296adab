"""From what a person types after ``--pipeline`` to a Pipeline."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

from protheon_dask.errors import ConfigError, MissingSetting, NotFound, ProtheonError
from protheon_dask.pipelines.jsonl import default_table, jsonl
from protheon_dask.pipelines.pgcr import pgcr
from protheon_dask.pipelines.pipeline import Pipeline

GROUP: Final = "protheon.pipelines"
BUILT_IN: Final = ("jsonl", "pgcr")
FILE_MODULE_PREFIX: Final = "protheon_file_"
"""Names modules made of files, so that ``json.py`` never stands in for the library of that name."""


def find(reference: str, *, table: str | None = None, paths: Sequence[str] = ()) -> Pipeline:
    """Return the pipeline that a built-in name, an entry point, ``module:name`` or ``file.py:name`` stands for.

    table:      only for ``jsonl``: its target; None chooses one after the first of paths.
    Raises:     NotFound: no such name, module, file or attribute; the text says which there are.
                ConfigError: it cannot be imported, is no pipeline, or does not take a table.
    Guarantee:  imports the author's module, which runs it; the directory of a file, and for a module the current one,
                are on sys.path from then on, so that the module finds its neighbours.
    """
    if reference == "jsonl":
        return jsonl(table if table is not None else default_table(paths), given=table is not None)
    if table is not None:
        raise ConfigError(f"a table is given, but pipeline {reference} names its own tables; a table is for jsonl")
    if reference == "pgcr":
        return pgcr
    if reference.endswith(".py") or ".py:" in reference:
        path, _, name = (reference, "", "") if reference.endswith(".py") else reference.rpartition(":")
        return _of_module(_import_file(Path(path)), name, path)
    if ":" in reference:
        module, _, name = reference.rpartition(":")
        return _of_module(import_named(module), name, module)
    return _of_entry_point(reference)


def is_installed(file: str | None) -> bool:
    """Whether a module's file is Python's, a package manager's or Protheon's: what is not is the author's own.

    A module without a file is Python's (built in) or a session's (__main__, a notebook), and is told apart by its name.
    """
    if file is None:
        return False
    path = Path(file).resolve()
    if {"site-packages", "dist-packages"} & set(path.parts) or path.is_relative_to(Path(__file__).resolve().parents[1]):
        return True
    return any(map(path.is_relative_to, _installed_places()))


@cache
def _installed_places() -> tuple[Path, ...]:
    """Python's own; asked for once, for every loaded module is compared with them."""
    return tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def is_own_code(file: str) -> bool:
    """Whether a frame's code is a person's: of a file that is nobody's package, of a prompt, a cell, or text that was executed."""
    if file.startswith("<"):  # the rest of these is the interpreter's
        return not file.startswith("<frozen ")
    return not is_installed(file)


def _of_entry_point(name: str) -> Pipeline:
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        names = ", ".join(sorted({*found, *BUILT_IN}))
        raise NotFound(f"no pipeline is called {name!r}: there are {names}; your own is module:name or file.py:name")
    return _checked(_load(found[name]), name)


def _load(point: EntryPoint) -> object:
    try:
        return point.load()
    except ModuleNotFoundError as error:
        raise _lacks(f"pipeline {point.name} of {point.value}", error) from error
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"pipeline {point.name} of {point.value} cannot be imported: {error}") from error


def _of_module(module: ModuleType, name: str, where: str) -> Pipeline:
    there = {key: value for key, value in vars(module).items() if isinstance(value, Pipeline)}
    if name:
        if not hasattr(module, name):
            raise NotFound(f"{where} has no {name!r}; its pipelines: {', '.join(there) or 'none'}")
        return _checked(getattr(module, name), f"{where}:{name}")
    distinct = list({id(value): value for value in there.values()}.values())
    if len(distinct) != 1:
        which = f"has {len(distinct)} pipelines: say {where}:NAME with one of {', '.join(there)}" if there else "has no pipeline"
        raise NotFound(f"{where} {which}")
    return distinct[0]


def _checked(found: object, reference: str) -> Pipeline:
    if not isinstance(found, Pipeline):
        raise ConfigError(f"{reference} is {type(found).__name__}, not a pipeline: decorate the function with @protheon.pipeline()")
    return found


def _lacks(what: str, error: ModuleNotFoundError) -> ConfigError:
    """The error of an author's module that imports what is not here: a library, or a neighbour that was left behind."""
    library = (error.name or "").partition(".")[0]
    if not library or library in sys.modules:  # raised by hand, or a package that is here lacks this part
        return ConfigError(f"{what} cannot be imported: {error}")
    told = "beside it and not installed here; of a library, install its package, here and where the workers run"
    return MissingSetting(f"{what} imports {error.name}, which is not {told}: pip install {library}")


def show_current_directory() -> None:
    """Put the current directory on sys.path, as python does for who works there."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def import_named(name: str) -> ModuleType:
    """Import the author's module, which runs it; the current directory is on sys.path from then on. Raises as find()."""
    show_current_directory()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise NotFound(f"no module {name!r} here: it is not installed and not in {Path.cwd()}") from error
        raise _lacks(f"module {name}", error) from error
    except ProtheonError:
        raise
    except Exception as error:  # the author's module may fail in any way; the operator must act
        raise ConfigError(f"module {name} cannot be imported: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise NotFound(f"no file {path}")
    name = FILE_MODULE_PREFIX + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the path ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ProtheonError:
        raise
    except ModuleNotFoundError as error:
        raise _lacks(path.name, error) from error
    except Exception as error:  # the author's file may fail in any way; the operator must act
        raise ConfigError(f"{path.name} cannot be run: {type(error).__name__}: {error}") from error
    return module
