"""What a person asks to be loaded, from words and options to what a master is asked for: the same for the command and the notebook."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from protheon_dask.broker.wire import Submitted
from protheon_dask.config import parse_reject_limit
from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.find import find
from protheon_dask.pipelines.pipeline import Pipeline
from protheon_dask.policy import RejectLimit
from protheon_dask.run.master import Master
from protheon_dask.workspace.source import resolve
from protheon_dask.workspace.url import absolute, is_url

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class Loading:
    """What is submitted; checked, and independent of where it runs."""

    pipeline: Pipeline
    paths: Sequence[str]
    chunk_lines: int | None = None  # None: what suits
    reject_limit: RejectLimit | None = None  # None: the master's
    again: bool = False
    replace: bool = False
    checksum: bool = False

    def to_go_on(self) -> Loading:
        """What is asked for once a run was made of these: what that run has loaded is not to be loaded again."""
        return dataclasses.replace(self, again=False, replace=False)

    def check_here(self) -> None:
        """Raise what is wrong with paths of this machine, before anything is started: a name mistyped costs no waiting."""
        if not any(is_url(path) for path in self.paths):
            resolve(self.paths)

    def submit(self, master: Master) -> Submitted:
        """Ask a master for the run. Raises as Master.submit()."""
        return master.submit(
            self.pipeline,
            self.paths,
            chunk_lines=self.chunk_lines,
            reject_limit=self.reject_limit,
            again=self.again,
            replace=self.replace,
            checksum=self.checksum,
        )


def loading(
    paths: Paths,
    pipeline: str | Pipeline = "jsonl",
    *,
    table: str | None = None,
    chunk_lines: int | Literal["auto"] | None = None,
    reject_limit: RejectLimit | int | float | str | None = None,
    again: bool = False,
    replace: bool = False,
    checksum: bool = False,
) -> Loading:
    """Check what is to be loaded, and find the pipeline that is named.

    paths:        files, directories, globs, fsspec URLs; relative ones are below the working directory of this process.
    pipeline:     one of protheon.pipeline's, or a name that pipelines.find.find() knows.
    reject_limit: as reject_limit_of() reads it.
    Raises:       NotFound, ConfigError: a name, a path that is no text, options that exclude each other.
    """
    if again and replace:
        raise ConfigError("again keeps the rows of the old load, replace deletes them first: give one of the two")
    places = places_of(paths)
    if chunk_lines not in (None, "auto") and not (type(chunk_lines) is int and chunk_lines >= 1):
        raise ConfigError(f"chunk_lines={chunk_lines!r} is neither a number of lines nor auto")
    return Loading(
        pipeline=pipeline_of(pipeline, table=table, paths=places),
        paths=places,
        chunk_lines=None if chunk_lines in (None, "auto") else int(chunk_lines),
        reject_limit=None if reject_limit is None else reject_limit_of(reject_limit),
        again=again,
        replace=replace,
        checksum=checksum,
    )


def places_of(paths: Paths) -> list[str]:
    """Paths that mean the same to a master with another working directory. Raises ConfigError: none is given, or one is no text."""
    given = [paths] if isinstance(paths, str | bytes | os.PathLike) else list(paths)
    if not given:
        raise ConfigError("no path is given: name files, directories, globs or URLs")
    return [absolute(_text(path)) for path in given]


def pipeline_of(pipeline: str | Pipeline, *, table: str | None = None, paths: Sequence[str] = ()) -> Pipeline:
    """The pipeline itself, or the one that is named. Raises as find(); ConfigError: something else was given."""
    if isinstance(pipeline, str):
        return find(pipeline, table=table, paths=paths)
    if not isinstance(pipeline, Pipeline):
        what = getattr(pipeline, "__name__", type(pipeline).__name__)
        raise ConfigError(f"{what} is no pipeline: decorate the function with @protheon.pipeline(), or give a name such as 'jsonl'")
    if table is not None:
        raise ConfigError(f"a table is given, but pipeline {pipeline.name} names its own tables; a table is for jsonl")
    return pipeline


def reject_limit_of(value: RejectLimit | int | float | str) -> RejectLimit:
    """Read a number of lines (an int), a share (a float within 0 and 1), or ``1000`` and ``5%`` as the command takes them.

    Raises: ConfigError.
    """
    if isinstance(value, RejectLimit):
        return value
    if isinstance(value, float):
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"reject limit {value!r}: a share is within 0.0 and 1.0; a number of lines is an int")
        return RejectLimit(fraction=value)
    return parse_reject_limit(str(value))


def _text(path: object) -> str:
    text = os.fspath(path) if isinstance(path, str | bytes | os.PathLike) else None
    if not isinstance(text, str):
        raise ConfigError(f"{path!r} is no path: give a str, a Path, or a list of them")
    return text
