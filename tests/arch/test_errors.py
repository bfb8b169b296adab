"""Errors cross process borders: each survives pickling, and each is in the tree that errors.py draws."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
import re
from collections.abc import Iterator

import pytest

import protheon_dask
from protheon_dask import errors
from protheon_dask.errors import ProtheonError

SAMPLES = {"str": "what happened", "int": 42, "str | None": "some text", "int | None": None, "float": 1.5, "bytes": b"raw"}


def all_subclasses(cls: type[ProtheonError]) -> Iterator[type[ProtheonError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from all_subclasses(sub)


def every_error() -> list[type[ProtheonError]]:
    """List the errors of all modules imported so far; those of errors.py at least."""
    return sorted(set(all_subclasses(ProtheonError)), key=lambda cls: cls.__qualname__)


def sample_args(cls: type[ProtheonError]) -> list[object]:
    """One argument a parameter, chosen by its annotation. A new annotation needs a sample here."""
    parameters = list(inspect.signature(cls).parameters.values())
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters), f"{cls.__name__}: args are positional"
    return [SAMPLES[str(parameter.annotation)] for parameter in parameters]


def assert_survives(error: ProtheonError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.args, str(again), vars(again)) == (type(error), error.args, str(error), vars(error))


@pytest.mark.parametrize("cls", every_error(), ids=lambda cls: cls.__name__)
def test_every_error_survives_pickling(cls: type[ProtheonError]) -> None:
    error = cls(*sample_args(cls))
    assert_survives(error)
    assert str(error)


def test_errors_that_other_modules_define_survive_too() -> None:
    known = set(every_error())
    for module in pkgutil.walk_packages(protheon_dask.__path__, "protheon_dask."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for cls in set(every_error()) - known:
        assert_survives(cls(*sample_args(cls)))


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = set(re.findall(r"[|`]-- (\w+)", errors.__doc__ or ""))
    public = {
        cls.__name__ for cls in all_subclasses(ProtheonError) if cls.__module__ == errors.__name__ and not cls.__name__.startswith("_")
    }
    assert drawn == public
