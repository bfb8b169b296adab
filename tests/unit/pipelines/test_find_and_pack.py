"""From a reference to a pipeline, and from one process to another."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import pytest

from protheon_dask.errors import ConfigError, MissingSetting, NotFound
from protheon_dask.pipelines.find import find
from protheon_dask.pipelines.fingerprint import code_hash
from protheon_dask.pipelines.jsonl import jsonl
from protheon_dask.pipelines.pack import MAX_OBJECT_BYTES, PackedPipeline, pack, unpack
from protheon_dask.pipelines.pack import _by_value as by_value
from protheon_dask.pipelines.pgcr import pgcr
from protheon_dask.pipelines.pipeline import ChunkContext

KEY = b"k" * 32

ORDERS = '''
from __future__ import annotations
from collections.abc import Iterator
import msgspec
import protheon_dask as protheon
from neighbour import double

class Item(msgspec.Struct, rename="camel"):
    item_name: str
    price: float = 1.5

class Source(msgspec.Struct, kw_only=True):
    id: int
    items: list[Item] = msgspec.field(default_factory=list)

    def total(self) -> float:
        return sum(item.price for item in self.items)

    @classmethod
    def one(cls) -> Source:
        return Source(id=1)

class Order(protheon.Row, table="shop.orders", primary_key="order_id", on_conflict="ignore"):
    """Orders."""
    order_id: int
    total: float
    note: str | None = None

    def again(self) -> Order:
        return Order(self.order_id, self.total)

# a comment
@protheon.pipeline(version="3")
def orders(source: Source) -> Iterator[Order]:
    yield Order(double(source.id) + Source.one().id, source.total()).again()
'''
NEIGHBOUR = "FACTOR = 2\ndef double(n):\n    return FACTOR * n\n"
LINE = b'{"id":3,"items":[{"itemName":"a"},{"itemName":"b","price":2}]}'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "orders.py").write_text(ORDERS)
    (tmp_path / "neighbour.py").write_text(NEIGHBOUR)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def rows(pipeline: Any, *lines: bytes) -> list[Any]:
    batch = pipeline.open(ChunkContext(7, 1, "orders.jsonl")).transform(lines, range(1, len(lines) + 1))
    assert batch.rejected == []
    return [list(table.rows) for table in batch.tables]


@pytest.mark.parametrize("reference", ["orders.py", "orders.py:orders", "orders:orders", "./orders.py"])
def test_a_file_or_a_module_names_a_pipeline(folder: Path, reference: str) -> None:
    found = find(reference)
    assert (found.name, found.version) == ("orders", "3")
    assert rows(found, LINE) == [[(7, 3.5, None)]]


def test_built_in_names() -> None:
    assert find("pgcr") is pgcr
    given, chosen = find("jsonl", table="raw.events"), find("jsonl", paths=["/data/events.jsonl.zst"])
    assert (given.tables[0].name, given.options) == ("raw.events", {"table": "raw.events"})
    assert (chosen.tables[0].name, chosen.options) == ("public.events", {})


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("pgrc", "no pipeline is called 'pgrc': there are jsonl, pgcr; your own is module:name or file.py:name"),
        ("absent.py", "no file .*absent.py"),
        ("absent:orders", "no module 'absent' here"),
        ("orders.py:other", "orders.py has no 'other'; its pipelines: orders"),
        ("neighbour.py", "neighbour.py has no pipeline"),
        ("two.py", "two.py has 2 pipelines: say two.py:NAME with one of a, b"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(folder: Path, reference: str, message: str) -> None:
    (folder / "two.py").write_text(
        "import protheon_dask as p\nclass R(p.Row, table='r'):\n    a: int\n"
        "@p.pipeline\ndef a(line: bytes) -> R: ...\n@p.pipeline\ndef b(line: bytes) -> R: ...\n"
    )
    with pytest.raises(NotFound, match=message):
        find(reference)


def test_what_is_there_and_wrong_is_the_operators(folder: Path) -> None:
    (folder / "broken.py").write_text("1/0\n")
    (folder / "lacking.py").write_text("import not_there_at_all.part")
    for reference, name in (("lacking.py", r"lacking\.py"), ("lacking:any", "module lacking")):
        with pytest.raises(MissingSetting, match=f"^{name} imports not_there_at_all, which is not .*: pip install not_there_at_all$"):
            find(reference)
    (folder / "partless.py").write_text("import protheon_dask.not_there")
    with pytest.raises(ConfigError, match=r"^partless\.py cannot be imported: No module named 'protheon_dask\.not_there'$"):
        find("partless.py")
    with pytest.raises(ConfigError, match=r"broken\.py cannot be run: ZeroDivisionError"):
        find("broken.py")
    with pytest.raises(ConfigError, match="cannot be imported: ZeroDivisionError"):
        find("broken:x")
    with pytest.raises(ConfigError, match=r"neighbour.py:double is function, not a pipeline: decorate"):
        find("neighbour.py:double")
    with pytest.raises(ConfigError, match="a table is for jsonl"):
        find("pgcr", table="x")


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("pipeline", [pgcr, jsonl("raw.events"), jsonl("events", given=False)], ids=["pgcr", "jsonl given", "jsonl"])
def test_built_in_pipelines_travel_by_reference_with_their_options(pipeline: Any, key: bytes | None) -> None:
    packed = pack(pipeline, key)
    assert (packed.reference, packed.object) == (pipeline.name, b"")
    again = unpack(packed, key)
    assert (again.name, again.version, again.tables, again.options) == (pipeline.name, pipeline.version, pipeline.tables, pipeline.options)


def test_a_pipeline_of_a_file_works_in_a_process_that_never_saw_the_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    packed = pack(find("orders.py"), KEY)
    assert packed.reference == ""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "packed").write_bytes(pickle.dumps(packed))
    code = f"""
import pickle
from protheon_dask.pipelines.pack import unpack
from protheon_dask.pipelines.pipeline import ChunkContext
pipeline = unpack(pickle.load(open("packed", "rb")), {KEY!r})
batch = pipeline.open(ChunkContext(7, 1, "x")).transform([{LINE!r}, b"bad"], (1, 2))
print(batch.tables[0].rows, pipeline.tables[0].comment, len(batch.rejected))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""}
    )
    assert done.stdout.strip() == "[(7, 3.5, None)] Orders. 1", done.stderr


def test_a_pipeline_of_a_notebook_travels(tmp_path: Path) -> None:
    code = f"""
import pickle, protheon_dask as protheon, msgspec
from typing import Any
from protheon_dask.pipelines.pack import pack
class Out(protheon.Row, table="out"):
    n: int
class In(msgspec.Struct):
    id: int
@protheon.pipeline()
def from_cell(line: In) -> Out:
    return Out(line.id)
open({str(tmp_path / "packed")!r}, "wb").write(pickle.dumps(pack(from_cell, {KEY!r})))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    packed = pickle.loads((tmp_path / "packed").read_bytes())
    assert rows(unpack(packed, KEY), b'{"id":4}') == [[(4,)]]


def test_what_a_session_takes_from_a_local_file_travels_with_its_pipeline(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    code = f"""
import pickle, protheon_dask as protheon
from orders import Order, Source
from protheon_dask.pipelines.pack import pack
@protheon.pipeline
def mended(source: Source) -> Order:
    return Order(source.id, source.total(), "mended")
open({str(elsewhere / "packed")!r}, "wb").write(pickle.dumps(pack(mended, {KEY!r})))
"""
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    code = f"""
import pickle
from protheon_dask.pipelines.pack import unpack
from protheon_dask.pipelines.pipeline import ChunkContext
pipeline = unpack(pickle.load(open("packed", "rb")), {KEY!r})
print(pipeline.open(ChunkContext(7, 1, "x")).transform([{LINE!r}], (1,)).tables[0].rows)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[(3, 3.5, 'mended')]", done.stderr


def changed(packed: PackedPipeline, name: str) -> PackedPipeline:
    value = getattr(packed, name)
    return replace(packed, **{name: value + (b"x" if isinstance(value, bytes) else " ")})


@pytest.mark.parametrize("name", [field.name for field in fields(PackedPipeline)])
def test_a_change_of_any_field_breaks_the_signature_and_nothing_is_unpickled(folder: Path, name: str) -> None:
    packed = changed(pack(find("orders.py"), KEY), name)
    with pytest.raises(ConfigError, match="its signature is not of this cluster's key; it was not unpickled"):
        unpack(packed, KEY)


def test_without_a_key_nothing_goes_by_value(folder: Path) -> None:
    found = find("orders.py")
    with pytest.raises(ConfigError, match="there is no cluster key"):
        pack(found, None)
    with pytest.raises(ConfigError, match="no cluster key here"):
        unpack(pack(found, KEY), None)
    with pytest.raises(ConfigError, match="signature"):
        unpack(pack(found, KEY), b"other")


@pytest.mark.parametrize("key", [None, b"other"], ids=["no key", "another key"])
@pytest.mark.parametrize("pipeline", [pgcr, jsonl("raw.events")], ids=["pgcr", "jsonl"])
def test_who_has_not_the_clusters_key_can_send_what_is_installed_everywhere(pipeline: Any, key: bytes | None) -> None:
    assert unpack(pack(pipeline, key), KEY).tables == pipeline.tables


@pytest.mark.parametrize("reference", ["{folder}/ran.py:x", "{folder}/ran.py", "ran:x", "ran.below:x", "__main__:x", ":x", "", "no_such:x"])
def test_of_what_is_not_signed_nothing_runs_that_is_not_installed_here(folder: Path, reference: str) -> None:
    (folder / "ran.py").write_text("import pathlib; pathlib.Path(__file__).with_suffix('.txt').write_text('it ran')")
    packed = replace(pack(pgcr, None), reference=reference.format(folder=folder))
    with pytest.raises(ConfigError, match="is not installed here: install it on all hosts"):
        unpack(packed, KEY)
    assert not (folder / "ran.txt").exists()


def test_a_reference_to_an_installed_package_needs_no_signature(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = folder / "site-packages"
    (installed / "shop").mkdir(parents=True)
    (installed / "shop" / "__init__.py").touch()
    (installed / "shop" / "lines.py").write_text(
        "import protheon_dask as p\nclass R(p.Row, table='r'):\n    a: int\n@p.pipeline\ndef f(line: bytes) -> R:\n    return R(1)\n"
    )
    monkeypatch.syspath_prepend(str(installed))
    found = find("shop.lines:f")
    unsigned = replace(pack(found, KEY), reference="shop.lines:f", object=b"", signature=b"")
    assert unpack(unsigned, KEY) is found
    with pytest.raises(ConfigError, match="is another one here"):
        unpack(replace(unsigned, tables_json=unsigned.tables_json.replace('"a"', '"b"')), KEY)


def test_other_versions_are_refused_by_name(folder: Path) -> None:
    from protheon_dask.pipelines import pack as module

    packed = pack(find("orders.py"), KEY)
    versions = json.loads(packed.versions_json)
    assert versions["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    older = replace(packed, versions_json=json.dumps({**versions, "msgspec": "0.1"}), signature=b"")
    signed = replace(older, signature=module._sign(older, KEY))
    with pytest.raises(ConfigError, match=r"other versions \(msgspec 0.1 there, .* here\)"):
        unpack(signed, KEY)


def test_another_version_under_the_same_reference_is_refused() -> None:
    packed = replace(pack(pgcr, None), version="2")
    with pytest.raises(ConfigError, match="is another one here"):
        unpack(packed, None)


def test_more_than_1_mib_is_refused(folder: Path) -> None:
    (folder / "big.py").write_text(
        "import os, protheon_dask as p\nDATA = os.urandom(1 << 20)\nclass R(p.Row, table='r'):\n    a: int\n"
        "@p.pipeline\ndef a(line: bytes) -> R:\n    return R(len(DATA))\n"
    )
    with pytest.raises(ConfigError, match="the limit is 1 MiB"):
        pack(find("big.py"), KEY)
    assert MAX_OBJECT_BYTES == 1 << 20


def hash_of(folder: Path) -> bytes:
    imports = "from protheon_dask.pipelines.find import find; from protheon_dask.pipelines.fingerprint import code_hash"
    code = f"{imports}; print(code_hash(find('orders.py')).hex())"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return bytes.fromhex(done.stdout)


def test_the_code_hash_is_the_same_in_every_process_and_changes_with_the_code_alone(folder: Path) -> None:
    before = hash_of(folder)
    (folder / "orders.py").write_text(ORDERS.replace("# a comment", "# another\n\n"))
    assert hash_of(folder) == before
    (folder / "orders.py").write_text(ORDERS.replace("item.price for", "2 * item.price for"))
    after = hash_of(folder)
    (folder / "neighbour.py").write_text(NEIGHBOUR.replace("2", "3"))
    assert len({before, after, hash_of(folder)}) == 3


def test_the_code_hash_covers_the_tables_of_a_class_whose_source_nobody_has() -> None:
    def made(table: str, column: str) -> bytes:
        names: dict[str, Any] = {"__name__": "__main__"}
        row = f"class T(p.Row, table={table!r}):\n    {column}: int\n"
        text = f"import protheon_dask as p\n{row}@p.pipeline\ndef f(line: dict) -> T: return T(1)"
        exec(text, names)
        return code_hash(names["f"])

    assert made("shop.ta", "n") == made("shop.ta", "n")
    assert len({made("shop.ta", "n"), made("shop.tb", "n"), made("shop.ta", "m")}) == 3


def test_the_code_hash_covers_built_in_pipelines() -> None:
    hashes = {code_hash(pgcr), code_hash(jsonl("a"))}
    assert len(hashes) == 2
    assert code_hash(jsonl("b")) in hashes


def test_a_module_that_is_there_twice_is_registered_once_while_it_is_packed() -> None:
    """Two threads that find one file at the same moment make two modules of one name; the registry of cloudpickle knows names."""
    twins = [ModuleType("protheon_file_twins"), ModuleType("protheon_file_twins")]
    sys.modules["protheon_file_twins"] = twins[0]
    try:
        with by_value(twins):
            assert "protheon_file_twins" in cloudpickle.list_registry_pickle_by_value()
    finally:
        del sys.modules["protheon_file_twins"]
    assert "protheon_file_twins" not in cloudpickle.list_registry_pickle_by_value()
