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


def import_all() -> None:
    """Import every module, so that no subclass is missed. Modules that run on import are left out."""
    for module in pkgutil.walk_packages(protheon_dask.__path__, "protheon_dask."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def all_subclasses(cls: type[ProtheonError]) -> Iterator[type[ProtheonError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from all_subclasses(sub)


def every_error() -> list[type[ProtheonError]]:
    import_all()
    return sorted(set(all_subclasses(ProtheonError)), key=lambda cls: cls.__qualname__)


def sample_args(cls: type[ProtheonError]) -> list[object]:
    """One argument a parameter, chosen by its annotation. A new annotation needs a sample here."""
    parameters = list(inspect.signature(cls).parameters.values())
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters), f"{cls.__name__}: args are positional"
    return [SAMPLES[str(parameter.annotation)] for parameter in parameters]


@pytest.mark.parametrize("error", [cls(*sample_args(cls)) for cls in every_error()], ids=lambda error: type(error).__name__)
def test_every_error_survives_pickling(error: ProtheonError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.args, str(again), vars(again)) == (type(error), error.args, str(error), vars(error))


@pytest.mark.parametrize("error", [cls(*sample_args(cls)) for cls in every_error()], ids=lambda error: type(error).__name__)
def test_every_error_renders_its_arguments(error: ProtheonError) -> None:
    assert str(error)
    assert str(error) != str(error.args) or len(error.args) == 1


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = set(re.findall(r"[|`]-- (\w+)", errors.__doc__ or ""))
    public = {
        cls.__name__ for cls in all_subclasses(ProtheonError) if cls.__module__ == errors.__name__ and not cls.__name__.startswith("_")
    }
    assert drawn == public
