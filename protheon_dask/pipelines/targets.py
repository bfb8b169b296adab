"""Where rows go: from the forms in which an author may give a row to the values of one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import astuple

from protheon_dask.errors import Reject
from protheon_dask.pipelines.row import Row, RowMeta, as_values
from protheon_dask.pipelines.table import Table

Values = Callable[[Any], Sequence[Any]]


class Targets:
    """The tables of one pipeline, prepared for a chunk.

    by_class: for each Row class its table's index and what makes values of an instance.
    """

    def __init__(self, tables: tuple[Table, ...], row_classes: tuple[RowMeta | None, ...]) -> None:
        self.tables = tables
        self._ready = [as_values(table) for table in tables]
        self._names = [tuple(column.name for column in table.columns) for table in tables]
        self._known = [frozenset(names) for names in self._names]
        self._required = [frozenset(c.name for c in table.columns if c.not_null) for table in tables]
        self._by_name = {table.name: i for i, table in enumerate(tables)}
        self.by_class: dict[Any, tuple[int, Values]] = {
            cls: (i, self._of_instance(i, cls)) for i, cls in enumerate(row_classes) if cls is not None
        }

    def _of_instance(self, index: int, row_class: RowMeta) -> Values:
        ready = as_values(self.tables[index], row_class)
        return astuple if ready is None else lambda row: ready(astuple(row))

    def place(self, item: Any) -> tuple[int, Sequence[Any]]:
        """Tell the table's index and the values of a row in any of its forms.

        Raises:     Reject: it is no row, its table is not the pipeline's, or its values do not fit the table's columns.
        """
        known = self.by_class.get(type(item))
        if known is not None:
            return known[0], known[1](item)
        if isinstance(item, tuple):
            if len(item) == 2 and isinstance(item[1], (tuple, list, dict)) and isinstance(item[0], (str, Table, RowMeta)):
                index = self.index_of(item[0])
                if index is not None:
                    return index, self.values(index, item[1])
                if not isinstance(item[0], str):
                    raise Reject(f"{_name(item[0])} is not among the pipeline's tables: {', '.join(self._by_name)}")
            return self._only(item)
        if isinstance(item, dict):
            return self._only(item)
        if isinstance(item, Row):
            raise Reject(f"{type(item).__name__} is not among the pipeline's tables: {', '.join(self._by_name)}")
        raise Reject(f"{type(item).__name__} is no row: give a Row, (table, values), a tuple, a dict, FILTERED or Reject")

    def index_of(self, table: str | Table | RowMeta) -> int | None:
        """The index of a table named by itself, its Row class or its name; None if it is not the pipeline's."""
        if isinstance(table, RowMeta):
            known = self.by_class.get(table)
            if known is not None:
                return known[0]
            return None if table.__protheon_table__ is None else self._by_name.get(table.__protheon_table__.name)
        if isinstance(table, Table):
            return self._by_name.get(table.name)
        return self._by_name.get(table if "." in table else f"public.{table}")

    def _only(self, item: Any) -> tuple[int, Sequence[Any]]:
        if len(self.tables) != 1:
            raise Reject(f"the pipeline has {len(self.tables)} tables: give (table, values) or a Row")
        return 0, self.values(0, item)

    def values(self, index: int, row: Any) -> Sequence[Any]:
        """The values of a tuple, list or dict in the order of the table's columns, ready for the sink; or Reject."""
        names, ready = self._names[index], self._ready[index]
        values: Sequence[Any]
        if isinstance(row, dict):
            if not row.keys() <= self._known[index] or not self._required[index] <= row.keys():
                self._refuse(index, row)
            values = tuple([row.get(name) for name in names])
        else:
            if len(row) != len(names):
                raise Reject(f"table {self.tables[index].name} has {len(names)} columns, the row {len(row)} values")
            values = tuple(row)
        return values if ready is None else ready(values)

    def _refuse(self, index: int, row: dict[str, Any]) -> None:
        unknown = sorted(str(name) for name in row.keys() - self._known[index])
        missing = sorted(self._required[index] - row.keys())
        problems = [f"no column {name!r}" for name in unknown[:5]] + [f"column {name!r} is missing" for name in missing[:5]]
        raise Reject(f"table {self.tables[index].name}: " + "; ".join(problems))


def _name(table: Table | RowMeta) -> str:
    return table.name if isinstance(table, Table) else table.__name__
