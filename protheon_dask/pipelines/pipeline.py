"""A pipeline as a value: its name, its tables, and the function that makes rows of lines."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.table import BatchRows, Table

if TYPE_CHECKING:
    from protheon_dask.pipelines.preview import Preview


class Filtered(Enum):
    """The verdict "left out on purpose": an enumeration, so that it is one object in every process."""

    FILTERED = "filtered"


FILTERED: Final = Filtered.FILTERED


def unheard() -> None:
    """Progress that nobody listens to."""


@dataclass(frozen=True, slots=True)
class ChunkContext:
    """What a pipeline may know of the chunk that it reads. path is the source's, for messages only.

    progress: to be called by what may be slow, at least once in stall_s, with no exception of it caught: it raises what ends
              the attempt (LeaseLost).
    """

    load_id: int
    task_id: int
    path: str
    progress: Callable[[], None] = unheard


class Transformer(Protocol):
    """One chunk's pipeline at work. Not thread-safe."""

    def transform(self, lines: Sequence[bytes], line_nos: Sequence[int]) -> BatchRows:
        """Make rows of one batch.

        Shapes:     lines without LF, CR and BOM, blank ones included; line_nos are theirs in the source, from 1: a range, but for
                    lines of a replay, which ascend with gaps.
        Raises:     what is not a line's fault: MemoryError, ImportError, ConfigError. Never because of a line's bytes.
        Guarantee:  each line has rows, or is in rejected, filtered, blank or parts.
        """
        ...


class Form(Protocol):
    """How a pipeline is called. Survives pickling; open() prepares it for one chunk."""

    @property
    def function(self) -> Callable[[Any], Any]:
        """The author's function, as it was written."""
        ...

    def open(self, tables: tuple[Table, ...], context: ChunkContext) -> Transformer: ...


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """Lines to rows of tables, by name and version.

    options:  what was chosen beside the code and changes the rows, as JSON values: a part of a load's identity.
    form:     how it is called; its code is what pack() sends.
    values_are_exact: its rows hold bools for boolean columns and ints within their ranges for smallint and integer ones, or
              None, and nothing else: a promise of its decoder, by which the sink saves a look at each value. A broken promise
              would be loaded as another number.
    """

    name: str
    version: str
    tables: tuple[Table, ...]
    form: Form
    options: Mapping[str, Any] = field(default_factory=dict)
    values_are_exact: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not self.name or len(self.name) > 100:  # it stands in the ledger and in file names of reports
            problems.append("its name must have 1 to 100 characters")
        if not isinstance(self.version, str) or not self.version:
            problems.append(f"its version must be a text such as '1', not {self.version!r}")
        if not self.tables:
            problems.append("it has no tables: tables=[..], or a Row class as the function's return annotation")
        names = [table.name for table in self.tables]
        problems += [f"table {name} is named twice" for name in sorted({name for name in names if names.count(name) > 1})]
        if problems:
            raise ConfigError(f"pipeline {self.name}: " + "; ".join(problems))

    def open(self, context: ChunkContext) -> Transformer:
        """Prepare for one chunk: decoders and targets are made here, once."""
        return self.form.open(self.tables, context)

    def __call__(self, lines: Any) -> Any:
        """Call the author's function as it was written: for tests and notebooks."""
        return self.form.function(lines)

    def preview(self, path: str | os.PathLike[str], n: int = 5) -> Preview:
        """Run it here on the first n lines of a file, and show its rows and its rejects as tables; nothing is loaded.

        path:   what load takes; as this process sees it.
        Raises: NotFound, ConfigError, SourceUnavailable: the path. What the pipeline raises that is not a line's fault.
        """
        import protheon_dask  # here: the package's face knows who reads files; pipelines do not

        return protheon_dask.preview(self, path, n)

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, version={self.version!r}, tables={[table.name for table in self.tables]})"
