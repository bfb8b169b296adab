"""Names for everything: structs that read a line, Row classes that are tables, and the statements between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from protheon_dask.pipelines.scaffold import names
from protheon_dask.pipelines.scaffold.evidence import evidence
from protheon_dask.pipelines.scaffold.keys import Key, Path, written
from protheon_dask.pipelines.scaffold.shape import Flat, Leaf, LeftOut, Many, Node, Type, n_columns

WIDTH: Final = 88
"""Columns of a source line: what the formatters of Python agree on, so that the file is formatted at any wider setting too."""
ANNOTATED: Final[dict[Type, str]] = {"Raw": "msgspec.Raw"}
MAX_BASE: Final = 20
"""Characters of an expression for an object beyond which it gets a variable; twice as many where that serves one or two columns."""
MANY: Final = 3
"""Objects with one and the same only key from which that key tells nothing."""
GENERIC: Final = frozenset({"data", "edges", "elements", "items", "list", "nodes", "records", "results", "values"})
"""Keys of lists that say nothing without the key before."""
IMPORTED: Final = frozenset({"Annotated", "Decimal", "Iterator", "Json", "Line", "Timestamp", "UUID"})


@dataclass(slots=True)
class Struct:
    """A class that reads an object.

    key, within: what it is named after: its key in the lines, and, if that is taken, the class around it.
    name:        given when all classes are known.
    absent:      the constant that stands for an object that is not there; empty if none is needed.
    """

    key: str
    within: Struct | None
    may_be_absent: bool = False
    name: str = ""
    absent: str = ""
    attrs: list[Attr] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(slots=True)
class Attr:
    """A field of a struct. annotation: with {} for the name of struct; default: as it is written, empty where it is required."""

    name: str
    key: str
    annotation: str
    default: str
    struct: Struct | None = None

    @property
    def written(self) -> str:
        return self.annotation if self.struct is None else self.annotation.format(self.struct.name)


@dataclass(slots=True)
class Column:
    """A column: what it is filled with, and the sample's evidence. key, default: where the class itself reads the lines."""

    name: str
    annotation: str
    expression: str
    comment: str
    key: str | None = None
    default: str = ""


@dataclass(slots=True)
class RowClass:
    """A table and its class."""

    name: str
    table: str
    doc: str
    n_rows: int
    key: list[str] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)


@dataclass(slots=True)
class Loop:
    """Over a list of objects; skips nulls where has_null_items."""

    number: str
    item: str
    source: str
    has_null_items: bool
    block: Block


@dataclass(slots=True)
class Block:
    """Statements that make one row and, in loops, those below it. parts: (variable, expression, its struct)."""

    row: RowClass
    parts: list[tuple[str, str, Struct]] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    """A pipeline, but for its text. line: None: the one Row class reads the lines."""

    function: str
    line: Struct | None
    rows: list[RowClass]
    block: Block
    needs_clean: bool

    def structs(self) -> list[Struct]:
        """Each once, after those that it names."""
        found: dict[int, Struct] = {}

        def walk(struct: Struct) -> None:
            for attr in struct.attrs:
                if attr.struct is not None:
                    walk(attr.struct)
            found.setdefault(id(struct), struct)

        if self.line is not None:
            walk(self.line)
        return list(found.values())


@dataclass(slots=True)
class _Taken:
    classes: set[str]
    tables: set[str]
    variables: set[str]
    constants: set[str]


@dataclass(slots=True)
class _Open:
    """A table whose columns are being filled. columns: names by path; silent: keys that no name tells (_silent); lists:
    what becomes loops when it is full."""

    block: Block
    columns: dict[Path, str]
    silent: frozenset[str]
    lists: list[tuple[Many, Struct, str, Path]] = field(default_factory=list)


class Planner:
    """Names one pipeline. Single use."""

    def __init__(self, table: str, function: str, key: Key, n_lines: int, source: str) -> None:
        schema, _, relation = table.rpartition(".")
        self._schema, self._relation, self._function, self._key = schema or "public", relation, function, key
        main = names.class_name(names.singular(names.snake(relation)), {*IMPORTED, function})
        self._main = RowClass(main, f"{self._schema}.{relation}", f"A line of {names.docstring(source)}.", n_lines)
        self._taken = _Taken({*IMPORTED, main, function}, {self._main.table}, {"line", "clean", function}, set())
        self._rows = [self._main]
        self._needs_clean = False

    def plan(self, nodes: list[Node]) -> Plan:
        is_flat = all(isinstance(node, Leaf) and not _is_cleaned(node) for node in nodes)
        block, line = Block(self._main), Struct("Line", None)
        self._table(nodes, line, block, "line", ())
        if is_flat:
            for column, attr in zip(self._main.columns, line.attrs, strict=True):
                column.key, column.default = attr.key, attr.default
            return Plan(self._function, None, self._rows, block, False)
        _merge(line, block)
        made = Plan(self._function, line, self._rows, block, self._needs_clean)
        for struct in made.structs():
            self._name(struct)
        return made

    def _table(self, nodes: list[Node], struct: Struct, block: Block, variable: str, path: Path) -> None:
        """Fill the struct, the block's table and its loops."""
        own = {column.name for column in block.row.columns}
        silent = _silent(nodes)
        open_ = _Open(block, names.column_names(dict(_telling(nodes, (), (), silent)), own), silent)
        self._object(nodes, struct, open_, variable, ())
        if block.row is self._main:
            self._main.key = [open_.columns[key_path] for key_path in self._key.paths]
        for node, item_struct, source, place in open_.lists:
            block.loops.append(self._loop(node, item_struct, source, block.row, (*path, *place, node.key)))

    def _object(self, nodes: list[Node], struct: Struct, open_: _Open, base: str, prefix: Path) -> None:
        taken: set[str] = set()
        row = open_.block.row
        for node in nodes:
            if isinstance(node, LeftOut):
                struct.left_out.append(node)
                continue
            here = (*prefix, node.key)
            match node:
                case Leaf():
                    default = _default(node) if node.is_optional else ""
                    attr = _add(struct, taken, Attr("", node.key, _annotation(node), default))
                    expression = f"{base}.{attr}"
                    if _is_cleaned(node):
                        self._needs_clean = True
                        expression = f"{expression} and clean({expression})" if node.is_optional else f"clean({expression})"
                    row.columns.append(Column(open_.columns[here], _annotation(node), expression, evidence(node, row.n_rows)))
                case Flat():
                    only = node.nodes[0] if len(node.nodes) == 1 else None
                    key = f"has_{names.snake(only.key)}" if isinstance(only, Flat) and only.key in open_.silent else node.key
                    below = Struct(key, struct, node.is_optional)
                    lacking = (" | None", "None") if node.is_optional else ("", "")
                    inner = f"{base}.{_add(struct, taken, Attr('', node.key, '{}' + lacking[0], lacking[1], below))}"
                    if node.is_optional or len(inner) > (MAX_BASE if n_columns(node.nodes) > 2 else 2 * MAX_BASE):
                        variable = self._variable(node.key)
                        open_.block.parts.append((variable, inner, below))
                        inner = variable
                    self._object(node.nodes, below, open_, inner, here)
                case Many():
                    below = Struct(names.singular(names.snake(node.key)), struct)
                    annotation = ("list[{} | None]" if node.has_null_items else "list[{}]") + (" | None" if node.is_optional else "")
                    attr = _add(struct, taken, Attr("", node.key, annotation, "None" if node.is_optional else "", below))
                    open_.lists.append((node, below, f"{base}.{attr}" + (" or ()" if node.is_optional else ""), prefix))

    def _loop(self, node: Many, struct: Struct, source: str, above: RowClass, path: Path) -> Loop:
        word = names.singular(names.snake(node.key))
        if names.snake(node.key) in GENERIC and len(path) > 1:
            word = f"{names.snake(path[-2])}_{word}"
        number, item = self._variable(f"{word[:20]}_no"), self._variable(word)
        seen = node.seen.item
        assert seen is not None  # a list of objects
        title = f"One of {names.docstring(written(path))}."
        row = RowClass(self._class(f"{self._main.name}_{word}"), self._table_name(path), title, seen.objects)
        self._rows.append(row)
        by_name = {column.name: column for column in above.columns}
        for name in above.key:
            column = by_name[name]
            child_name = name
            if above is self._main and name in ("id", "uuid", "guid", "key", "pk"):
                child_name = names.column_name([names.snake(self._main.name), name], ())
            child_name = names.unique(child_name, {column.name for column in row.columns})
            row.columns.append(Column(child_name, column.annotation, column.expression, ""))
        number_name = names.column_name([f"{word[:36]}_no"], {column.name for column in row.columns})
        row.columns.append(Column(number_name, "int", number, "its place in the list, from 1"))
        row.key = [column.name for column in row.columns]
        block = Block(row)
        self._table(node.nodes, struct, block, item, path)
        return Loop(number, item, source, node.has_null_items, block)

    def _name(self, struct: Struct) -> None:
        """Name a struct and its constant."""
        if struct.within is None:
            struct.name = struct.key
            return
        around = struct.within.key if struct.within.within is not None else ""
        struct.name = self._class(struct.key, names.camel(around) if around else "")
        if struct.may_be_absent:
            struct.absent = names.unique(f"NO_{names.snake(struct.name, 24).upper()}", self._taken.constants)
            self._taken.constants.add(struct.absent)

    def _class(self, wanted: str, within: str = "") -> str:
        name = names.class_name(wanted, self._taken.classes, within)
        self._taken.classes.add(name)
        return name

    def _variable(self, wanted: str) -> str:
        name = names.variable_name(wanted, self._taken.variables)
        self._taken.variables.add(name)
        return name

    def _table_name(self, path: Path) -> str:
        """After the last key; after all of them where that is taken."""
        short = path[-2:] if names.snake(path[-1]) in GENERIC else path[-1:]
        for words in (short, path):
            relation = f"{self._relation}_{names.snake('_'.join(map(names.snake, words)), names.IDENTIFIER_BYTES)}"
            if len(relation.encode()) <= names.IDENTIFIER_BYTES and f"{self._schema}.{relation}" not in self._taken.tables:
                break
        while len(relation.encode()) > names.IDENTIFIER_BYTES:
            relation = relation[:-1]
        taken = {table.partition(".")[2] for table in self._taken.tables}
        table = f"{self._schema}.{names.unique(relation, taken, names.IDENTIFIER_BYTES)}"
        self._taken.tables.add(table)
        return table


def _add(struct: Struct, taken: set[str], attr: Attr) -> str:
    """Name a field, so that its line is not too long, and add it."""
    n_annotation = len(attr.annotation) + (0 if attr.struct is None else names.MAX_CLASS_NAME)
    limit = max(8, WIDTH - 4 - len(": ") - n_annotation - len(" = msgspec.field("))
    attr.name = names.field_name(attr.key, taken, min(names.MAX_NAME, limit))
    taken.add(attr.name)
    struct.attrs.append(attr)
    return attr.name


def _silent(nodes: list[Node]) -> frozenset[str]:
    """Keys that wrap many values and tell nothing of them, as basic does in ``{"kills": {"basic": {"value": 3}}}``."""

    def only_keys(nodes: list[Node]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, Flat):
                if len(node.nodes) == 1 and isinstance(node.nodes[0], Flat):
                    yield node.nodes[0].key
                yield from only_keys(node.nodes)

    return frozenset(key for key, n in Counter(only_keys(nodes)).items() if n >= MANY)


def _telling(nodes: list[Node], prefix: Path, telling: Path, silent: frozenset[str]) -> Iterator[tuple[Path, Path]]:
    """Paths of the columns, and of their keys those that tell something."""
    for node in nodes:
        here = telling if len(nodes) == 1 and telling and node.key in silent else (*telling, node.key)
        if isinstance(node, Leaf):
            yield (*prefix, node.key), here
        elif isinstance(node, Flat):
            yield from _telling(node.nodes, (*prefix, node.key), here, silent)


def _merge(line: Struct, block: Block) -> None:
    """Of structs for the same key and with the same fields keep one."""
    kept: dict[tuple[object, ...], Struct] = {}
    instead: dict[int, Struct] = {}

    def walk(struct: Struct) -> Struct:
        for attr in struct.attrs:
            if attr.struct is not None:
                attr.struct = walk(attr.struct)
        fields = tuple((attr.name, attr.key, attr.annotation, attr.default, id(attr.struct)) for attr in struct.attrs)
        like = (struct.key, struct.may_be_absent, fields, tuple(left.key for left in struct.left_out))
        instead[id(struct)] = kept.setdefault(like, struct)
        return instead[id(struct)]

    def replace(block: Block) -> None:
        block.parts = [(variable, source, instead[id(struct)]) for variable, source, struct in block.parts]
        for loop in block.loops:
            replace(loop.block)

    walk(line)
    replace(block)


def _annotation(leaf: Leaf) -> str:
    name = ANNOTATED.get(leaf.type, leaf.type)
    if leaf.is_list:
        name = f"list[{name} | None]" if leaf.has_null_items else f"list[{name}]"
    return f"{name} | None" if leaf.is_optional and leaf.type not in ("Raw", "Json") else name


def _default(leaf: Leaf) -> str:
    return "msgspec.Raw()" if leaf.type in ("Raw", "Json") else "None"


def _is_cleaned(leaf: Leaf) -> bool:
    return leaf.type == "str" and leaf.seen.texts.has_nul and not leaf.is_list
