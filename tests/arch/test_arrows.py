"""What the layers may know, checked on the source itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "protheon_dask"
GENERATED = PACKAGE / "broker" / "_pb"
MAX_LINES = 600  # STYLE, Layout: past that, split by verb
RIM = ("cli/", "notebook.py", "run/settings.py", "failpoints.py", "broker/__init__.py")
"""Where the environment and the command line are read (STYLE: parsed once at the rim); failpoints.py reads its one variable, for the main
function of each process of ours; broker/__init__.py sets the one of gRPC, before that is loaded."""
HEAVY = {"grpc", "dask", "distributed", "bokeh", "pandas", "psycopg", "numpy", "polars", "pyarrow", "click", "rich"}
SQL_START = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|DROP|ALTER|COPY|WITH|TRUNCATE|LOCK|SET|SAVEPOINT|NOTIFY)\s")
LOCKING = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM|FOR SHARE|LOCK TABLE|pg_advisory\w*lock)\b")
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(GENERATED))
STATEMENTS = sorted(PACKAGE.rglob("sql/*.sql"))


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_the_arrows_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_a_module_fits_into_a_head(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= MAX_LINES


def environment_reads(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb" | "getenv"):
                yield node.lineno
            case ast.ImportFrom(module="os", names=names) if any(alias.name in ("environ", "environb", "getenv") for alias in names):
                yield node.lineno


@pytest.mark.parametrize("module", [m for m in MODULES if not name(m).startswith(RIM)], ids=name)
def test_below_the_rim_nobody_reads_the_environment(module: Path) -> None:
    assert list(environment_reads(ast.parse(module.read_text()))) == []


def test_the_environment_check_sees_each_way_of_reading_it() -> None:
    for code in ("os.environ['X']", "os.getenv('X')", "from os import environ"):
        assert list(environment_reads(ast.parse(code))) == [1]


def formatted_sql(tree: ast.AST) -> Iterator[int]:
    """Find f-strings, % and .format() over a string that begins like a statement."""
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]) if SQL_START.match(text):
                yield node.lineno
            case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mod()) if SQL_START.match(text):
                yield node.lineno
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")) if SQL_START.match(text):
                yield node.lineno


@pytest.mark.parametrize("module", [m for m in MODULES if not name(m).startswith("sink/")], ids=name)
def test_no_statement_is_formatted_in_python(module: Path) -> None:
    """The sink alone makes statements from a user's tables, with quoted identifiers (psycopg.sql)."""
    assert list(formatted_sql(ast.parse(module.read_text()))) == []


def test_the_sql_check_sees_each_way_of_formatting() -> None:
    for code in ('f"SELECT {x}"', '"UPDATE t SET a = %s" % x', '"DELETE FROM {}".format(x)'):
        assert list(formatted_sql(ast.parse(code))) == [1]


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda path: path.stem)
def test_every_statement_has_its_header(statement: Path) -> None:
    lines = statement.read_text().splitlines(keepends=True)
    header = "".join(line for line in lines if line.startswith("--"))
    takes_locks = LOCKING.search("".join(line.partition("--")[0] for line in lines))
    assert re.match(rf"-- (\S*/)?{statement.stem}(\.sql)?: \S", header), "line 1: name and purpose"
    assert [word for word in ("Params:", "Returns:", "Locks:") if word not in header and (word != "Locks:" or takes_locks)] == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, protheon_dask; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert set(loaded) & HEAVY == set()
    assert "protheon_dask" in loaded


def test_broker_and_workers_that_speak_plaintext_load_no_cryptography() -> None:
    code = "import sys, protheon_dask.run.broker, protheon_dask.run.preload_worker; print('cryptography' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert told == "False\n"
