"""run.debug on a real cluster: rejects, dead letters and lines, with the bytes that were cut and the code that was submitted."""

from __future__ import annotations

import io
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import zstandard
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

import protheon_dask as protheon
from protheon_dask.errors import ConfigError, NotFound, Reject, SourceChanged
from protheon_dask.run.cluster import Cluster
from protheon_dask.run.debug import Debugged
from protheon_dask.run.handle import Run
from protheon_dask.run.trust.keys import make_key
from tests.acceptance.conftest import Gate, World, write_numbers, write_pipeline

SETTINGS = {"chunk_lines": 100, "dead_at_failures": 1, "dead_at_crashes": 1, "reject_limit": "100%"}

ORDERS = """
from collections.abc import Iterator
from typing import Any
import protheon_dask as protheon

class Order(protheon.Row, table="shop.{name}", primary_key="n"):
    n: int
    total: int
    note: str | None = None

class Item(protheon.Row, table="shop.{name}_items"):
    n: int
    item: str

def share(document):
    parts = document["parts"]
    return document["total"] // parts

@protheon.pipeline(version="1", tables=[Order, Item])
def {name}(document: dict) -> Iterator[Any]:
    if document.get("kind") == "refused":
        raise protheon.Reject("refused on purpose")
    order = Order(document["n"], share(document), document.get("note"))
    yield order
    for at, item in enumerate(document.get("items", [])):
        if item == "":
            yield protheon.Reject("an empty item", part=f"items[{{at}}]")
        elif item == "yielded":
            yield protheon.Reject("yielded on purpose")
        elif item == "odd":
            yield ("shop.{name}_items", (document["n"], item, "one too many"))
        else:
            yield Item(document["n"], item)
"""

LONG = "x" * 100_000
LINES: list[tuple[dict[str, Any] | bytes, str]] = [
    ({"n": 1, "total": 10, "parts": 2}, ""),
    ({"n": 2, "total": 10, "parts": 0}, "ZeroDivisionError"),
    ({"n": 3, "kind": "refused"}, "refused on purpose"),
    ({"n": 4, "total": 10, "parts": 2, "items": ["a", "yielded"]}, "yielded on purpose"),
    ({"n": 5, "total": 10, "parts": 2, "items": ["odd"]}, "has 2 columns, the row 3 values"),
    ({"n": 1, "total": 4, "parts": 2, "note": "a second time"}, "23505"),
    ({"n": 7, "total": 2**40, "parts": 1, "note": "a\0"}, "22021"),
    (b'{"n": 8,\xff\x00\x1b[31m', "JSON is malformed"),
    ({"n": 9, "parts": 0, "total": 1, "note": LONG}, "ZeroDivisionError"),
    ({"n": 10, "total": 10, "parts": 2, "items": ["a", "", "b"]}, "an empty item"),
    ({"n": 11, "total": 10, "parts": 2, "note": 5}, "cannot take 5"),
]


def dump(line: dict[str, Any] | bytes) -> bytes:
    return line if isinstance(line, bytes) else json.dumps(line).encode()


def cluster_of(world: World, *, into: bool = True, home: Path | None = None) -> Cluster:
    """The cluster as another kernel has it. into: it knows the database. home: where it finds the cluster's key."""
    chosen = home or world.cluster._home
    return protheon.connect(world.cluster.client.address, into=world.url if into else None, home=str(chosen))


def connecting(world: World) -> str:
    """The same in another process, as code."""
    return f"protheon.connect({world.cluster.client.address!r}, into={world.url!r}, home={str(world.cluster._home)!r})"


def run_of(world: World, run_id: int, *, into: bool = True, home: Path | None = None) -> Run:
    return cluster_of(world, into=into, home=home).run(run_id)


@pytest.fixture(scope="module")
def orders(module_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Path]]:
    """A run with a reject of each kind, out of a compressed file."""
    directory = tmp_path_factory.mktemp("orders")
    (directory / "orders.py").write_text(ORDERS.format(name="orders"))
    source = directory / "orders.jsonl.zst"
    good = b"".join(dump({"n": n, "total": n, "parts": 1}) + b"\r\n" for n in range(100, 400))
    source.write_bytes(zstandard.compress(good) + zstandard.compress(b"\n".join(dump(line) for line, _ in LINES)))
    done = replace(module_world, directory=directory).load(f"{directory}/orders.py:orders", source)
    assert done.state == "succeeded", done.reason
    assert (done.rejected, done.rejected_parts) == (9, 1)
    cluster = cluster_of(module_world)
    yield cluster.run(done.run), source
    cluster.close()


def row_of(run: Run, line_no: int) -> pd.Series[Any]:
    rejects = run.rejects()
    return rejects[rejects["line"] == line_no].iloc[0]


def notes_of(error: BaseException) -> str:
    return "\n".join(error.__notes__)


def line_at(error: BaseException) -> str:
    """The source line at the innermost frame of a person's code."""
    import linecache

    from protheon_dask.run.post_mortem import own_frames

    frames = own_frames(error)
    assert frames is not None
    while frames.tb_next is not None:
        frames = frames.tb_next
    return linecache.getline(frames.tb_frame.f_code.co_filename, frames.tb_lineno).strip()


def test_an_exception_of_the_code_is_raised_where_it_was_with_the_line_in_its_notes(orders: tuple[Run, Path]) -> None:
    run, source = orders
    row = row_of(run, 302)
    with pytest.raises(ZeroDivisionError) as caught:
        run.debug(row)
    assert line_at(caught.value) == 'return document["total"] // parts'
    notes = notes_of(caught.value)
    assert f"line 302 of {source}, byte {row['byte_offset']:,}: " in notes
    assert '{"n": 2, "total": 10, "parts": 0}' in notes
    assert f"reject {row['id']} was recorded as: ZeroDivisionError: integer division or modulo by zero (orders.py:17 in share)" in notes


@pytest.mark.parametrize(
    ("line_no", "stands_at"),
    [
        (303, 'raise protheon.Reject("refused on purpose")'),
        (304, 'yield protheon.Reject("yielded on purpose")'),
        (305, 'yield ("shop.orders_items", (document["n"], item, "one too many"))'),
    ],
)
def test_a_verdict_is_raised_at_the_line_that_gave_it(orders: tuple[Run, Path], line_no: int, stands_at: str) -> None:
    run, _ = orders
    with pytest.raises(Reject, match=LINES[line_no - 301][1]) as caught:
        run.debug(reject=int(row_of(run, line_no)["id"]))
    assert line_at(caught.value) == stands_at


def test_a_refused_part_is_raised_at_its_yield(orders: tuple[Run, Path]) -> None:
    run, _ = orders
    row = row_of(run, 310)
    assert row["part"] == "items[1]"
    with pytest.raises(Reject, match="an empty item") as caught:
        run.debug(row)
    assert line_at(caught.value) == 'yield protheon.Reject("an empty item", part=f"items[{at}]")'


def test_a_line_that_is_not_decoded_raises_the_decoders_error_with_its_bytes_escaped(orders: tuple[Run, Path]) -> None:
    run, _ = orders
    with pytest.raises(Exception, match="JSON is malformed") as caught:
        run.debug(row_of(run, 308))
    assert type(caught.value).__name__ == "DecodeError"
    assert '{"n": 8,\\xff\\x00\\x1b[31m' in notes_of(caught.value)
    assert "\x1b" not in notes_of(caught.value)


@pytest.mark.parametrize(("line_no", "sqlstate"), [(306, "23505"), (307, "22021")])
def test_what_postgresql_refused_shows_the_row_and_its_words(orders: tuple[Run, Path], line_no: int, sqlstate: str) -> None:
    run, _ = orders
    row = row_of(run, line_no)
    found = run.debug(row.to_dict())
    assert found.error is None
    assert found.made is not None
    assert found.made.tables[0].rows[0][0] == {306: 1, 307: 7}[line_no]
    told = repr(found)
    assert "PostgreSQL refused what it made" in told
    assert sqlstate in told
    assert str(row["reason"])[:20] in told
    assert "shop.orders: 1 row" in told
    assert "<table" in found._repr_html_()


def test_what_never_came_to_postgresql_is_not_laid_to_it(orders: tuple[Run, Path]) -> None:
    run, _ = orders
    told = repr(run.debug(row_of(run, 311)))
    assert "Protheon's check of values against their columns, before PostgreSQL saw them, refused what it made" in told
    assert "column 'note' (text) cannot take 5" in told


def test_a_line_beyond_64_kib_is_fetched_from_its_source(orders: tuple[Run, Path], tmp_path: Path) -> None:
    run, source = orders
    row = row_of(run, 309)
    assert len(row["raw"]) == 65_536 < row["raw_bytes"]
    with pytest.raises(ZeroDivisionError):
        run.debug(row)
    other = tmp_path / "elsewhere.zst"
    other.write_bytes(source.read_bytes())
    source.rename(source.with_suffix(".away"))
    try:
        with pytest.raises(NotFound, match="no such file"):
            run.debug(row)
        with pytest.raises(ZeroDivisionError):
            run.debug(row, path=other)
        other.write_bytes(source.with_suffix(".away").read_bytes() + zstandard.compress(b"another line"))
        with pytest.raises(SourceChanged, match="not the file that was loaded"):
            run.debug(row, path=str(other))
    finally:
        source.with_suffix(".away").rename(source)


def test_a_mended_pipeline_shows_what_it_makes_of_the_line(orders: tuple[Run, Path]) -> None:
    run, _ = orders

    @protheon.pipeline(tables=[protheon.Table(name="t.x", columns=(protheon.Column("n", "bigint"),))])
    def mended(document: dict[str, Any]) -> tuple[int]:
        return (document["n"],)

    found = run.debug(row_of(run, 302), pipeline=mended)
    assert found.told[1] == "pipeline mended passes it here"
    assert found.made is not None
    assert found.made.tables[0].rows == ((2,),)
    assert "ZeroDivisionError" in found.recorded


def test_any_line_of_the_runs_file_is_debugged_by_its_number(orders: tuple[Run, Path]) -> None:
    run, source = orders
    passed = run.debug(line=150)
    assert passed.made is not None
    assert passed.made.tables[0].rows == ((249, 249, None),)
    with pytest.raises(ZeroDivisionError) as caught:
        run.debug(line=302, path=source)
    assert "line 302 of" in notes_of(caught.value)
    with pytest.raises(NotFound, match="no line 5,000"):
        run.debug(line=5_000)


def test_without_a_database_the_row_and_a_pipeline_do(orders: tuple[Run, Path], module_world: World) -> None:
    run, source = orders
    alone = run_of(module_world, run.id, into=False)
    name = f"{source.parent}/orders.py:orders"
    row = alone.rejects().set_index("line", drop=False).loc[302]
    with pytest.raises(ZeroDivisionError) as caught:
        alone.debug(row, pipeline=name)
    assert "line 302 of" in notes_of(caught.value)
    with pytest.raises(ConfigError, match="give pipeline="):
        alone.debug(row)
    with pytest.raises(ConfigError, match="64 KiB of the line's 100,"):
        alone.debug(alone.rejects().set_index("line", drop=False).loc[309], pipeline=name)
    with pytest.raises(ConfigError, match="which says where the bytes are"):
        alone.debug(line=3)


def test_code_by_value_is_run_only_under_the_clusters_key(orders: tuple[Run, Path], module_world: World, tmp_path: Path) -> None:
    run, _ = orders
    reject = int(row_of(run, 302)["id"])
    with pytest.raises(ConfigError, match="key, which signed it, is not known here: give pipeline="):
        run_of(module_world, run.id, home=tmp_path).debug(reject=reject)
    make_key(tmp_path)
    with pytest.raises(ConfigError, match="not of this cluster's key; it was not unpickled"):
        run_of(module_world, run.id, home=tmp_path).debug(reject=reject)


def test_what_is_not_meant_is_told(orders: tuple[Run, Path]) -> None:
    run, _ = orders
    for wrong in ((), (run.rejects(),), ("first",), (run.files().iloc[0],)):
        with pytest.raises(ConfigError, match=r"say what to debug|rows are given: give one|no row of"):
            run.debug(*wrong)
    with pytest.raises(ConfigError, match="one of reject=, task= and line="):
        run.debug(reject=1, task=2)
    with pytest.raises(NotFound, match="has no reject 999999"):
        run.debug(999_999)
    with pytest.raises(NotFound, match="task 999999 is not dead and never was"):
        run.debug(task=999_999)


def test_a_reject_of_a_replay_is_debugged_by_the_replays_code_at_the_lines_own_place(world: World) -> None:
    def refusing(below: int) -> str:
        return write_pipeline(world.directory, "again", f"if n < {below}:\n    raise ValueError('below {below}')")

    first = run_of(world, world.load(refusing(3), write_numbers(world.directory / "again.txt", 100)).run)
    replay = first.replay_rejects(refusing(2))
    assert replay is not None
    assert replay.wait().rejected == 2
    rejects = first.rejects(everything=True).set_index("line", drop=False)
    with pytest.raises(ValueError, match="below 2") as caught:
        first.debug(rejects.loc[2].iloc[0])  # line 2 is there twice; what is still refused comes first
    assert f"line 2 of {world.directory}/again.txt, byte 2: 1" in notes_of(caught.value)
    with pytest.raises(ValueError, match="below 3"):
        first.debug(rejects.loc[3])  # its replay has loaded it; why the first run refused it can still be seen


# --- dead letters ------------------------------------------------------------------------------------------------------------


def dying(world: World, name: str, condition: str, error: str = "MemoryError('no room')") -> tuple[Run, pd.Series[Any]]:
    """A run with a dead chunk, and its letter."""
    pipeline = write_pipeline(world.directory, name, f"if {condition}:\n    raise {error}")
    done = world.load(pipeline, write_numbers(world.directory / f"{name}.txt", 300))
    assert (done.state, done.chunks_dead) == ("incomplete", 1), done.reason
    run = run_of(world, done.run)
    return run, run.dead_letters().iloc[0]


def test_a_dead_letter_raises_at_the_line_that_ended_its_chunk(world: World) -> None:
    run, letter = dying(world, "short", "n == 157")
    with pytest.raises(MemoryError, match="no room") as caught:
        run.debug(letter)
    notes = notes_of(caught.value)
    assert f"line 158 of {world.directory}/short.txt, byte 518: 157" in notes
    assert f"task {letter['task_id']}: chunk 2 of {world.directory}/short.txt, lines 101 to 200" in notes
    assert "it is dead (failed once) by: MemoryError: no room" in notes
    assert line_at(caught.value) == "raise MemoryError('no room')"
    (world.directory / "short.txt").unlink()  # the broker has its bytes
    with pytest.raises(MemoryError):
        run.debug(task=int(letter["task_id"]))


def test_a_chunk_whose_file_is_gone_is_read_from_the_source(world: World) -> None:
    run, letter = dying(world, "lost", "n == 200")
    for path in Path(world.cluster.settings.home).glob("workspace/*/*/*.zst"):
        path.unlink()
    with pytest.raises(MemoryError, match="no room") as caught:
        run.debug(letter)
    assert "line 201 of" in notes_of(caught.value)
    (world.directory / "lost.txt").write_text("changed\n")
    with pytest.raises(ConfigError, match=r"cannot be had here; the broker: .*; the source: .*not the file that was loaded; give path="):
        run.debug(letter)


def test_a_chunk_that_passes_here_says_so_with_what_was_recorded(world: World, gate: Gate) -> None:
    run, letter = dying(world, "outside", f"n == 42 and not os.path.exists({str(gate.path)!r})")
    gate.open()
    found = run.debug(letter)
    assert found.error is None
    assert "its 100 lines pass here: the cause was outside of pipeline outside's code, or is mended" in found.told
    assert "MemoryError: no room" in repr(found)
    assert "Traceback (most recent call last)" in repr(found)
    assert "Traceback" in found._repr_html_()


@pytest.mark.slow
def test_a_chunk_that_killed_its_worker_kills_a_child_and_not_this_process(world: World) -> None:
    run, letter = dying(world, "deadly", "n == 234 and not os.kill(os.getpid(), 11)")
    assert letter["error_class"] == "WorkerDied"
    found = run.debug(letter)
    assert found.told[0] == f"line 235 of {world.directory}/deadly.txt, byte 826: 234"
    assert found.told[1] == "there the pipeline killed the process by signal SIGSEGV, in a process of its own"
    assert "Fatal Python error: Segmentation fault" in found.recorded
    assert "in deadly" in found.recorded


def test_a_batch_function_is_narrowed_to_its_line(world: World) -> None:
    (world.directory / "batched.py").write_text(
        textwrap.dedent("""
        import protheon_dask as protheon

        T = protheon.Table(name="public.batched", columns=(protheon.Column("n", "bigint"),))

        @protheon.pipeline(tables=[T])
        def batched(lines: list[bytes]):
            if b"77" in lines:
                raise MemoryError(f"{len(lines)} lines")
            return [(index, (int(line),)) for index, line in enumerate(lines)]
        """)
    )
    done = world.load(f"{world.directory}/batched.py:batched", write_numbers(world.directory / "batched.txt", 300))
    assert done.chunks_dead == 1
    run = run_of(world, done.run)
    with pytest.raises(MemoryError, match="1 lines") as caught:
        run.debug(run.dead_letters())
    assert "line 78 of" in notes_of(caught.value)


def test_a_dead_chunk_of_a_replay_is_debugged_with_the_numbers_of_its_source(world: World) -> None:
    source = world.directory / "mended.txt"
    source.write_bytes(b"0\n1\n\xef\xbb\xbf2\n3\n")
    first = run_of(world, world.load(write_pipeline(world.directory, "mended", "raise ValueError('not yet')"), source).run)
    mended = write_pipeline(world.directory, "mended", "if n == 3:\n    raise MemoryError('no room')")
    replay = first.replay_rejects(mended)
    assert replay is not None
    assert replay.wait().chunks_dead == 1
    with pytest.raises(MemoryError, match="no room") as caught:
        replay.debug(replay.dead_letters())
    assert ", byte 9: 3" in notes_of(caught.value)
    assert notes_of(caught.value).startswith("line 4 of ")


def test_a_letter_of_the_general_queue_is_no_chunk(world: World) -> None:
    run = run_of(world, world.load("jsonl", write_numbers(world.directory / "queue.txt", 1)).run)
    task_id = world.cluster.client.submit_task("no_such_module:gone", max_failures=1).task_id
    assert world.cluster.client.wait_task(task_id, 60.0).state == "dead"
    with pytest.raises(ConfigError, match=f"task {task_id} is no chunk: it runs no_such_module:gone; call that function"):
        run.debug(task=task_id)


# --- the debugger ------------------------------------------------------------------------------------------------------------


def test_the_debugger_stops_in_the_frame_of_the_persons_code(
    orders: tuple[Run, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = orders
    monkeypatch.setattr(sys, "stdin", io.StringIO("p parts, document['n']\nup\np 'order' in dir()\nq\n"))
    found = run.debug(row_of(run, 302), pdb=True)
    out = capsys.readouterr().out
    assert isinstance(found, Debugged)
    assert isinstance(found.error, ZeroDivisionError)
    assert "line 302 of" in out
    assert '-> return document["total"] // parts' in out
    assert "(0, 2)" in out
    assert '-> order = Order(document["n"], share(document), document.get("note"))' in out


KERNEL_S = 60.0
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Kernel:
    """A real kernel, driven as a notebook's front end drives it."""

    client: BlockingKernelClient

    def run(self, code: str, answers: list[str] | None = None) -> tuple[str, str]:
        """What a cell printed or showed, and the name of its error, "" for none. answers: typed where it asks; None: nobody is there."""
        told: list[str] = []
        left = list(answers or [])

        def note(message: dict[str, Any]) -> None:
            content = message["content"]
            told.append(content.get("text", "") or content.get("data", {}).get("text/plain", "") or "\n".join(content.get("traceback", [])))

        def answer(_: dict[str, Any]) -> None:
            self.client.input(left.pop(0))

        reply = self.client.execute_interactive(
            textwrap.dedent(code), allow_stdin=answers is not None, output_hook=note, stdin_hook=answer, timeout=KERNEL_S
        )
        return "".join(told), reply["content"].get("ename", "")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
            patch.setenv(variable, str(tmp_path_factory.mktemp(variable.lower())))
        manager, client = start_new_kernel(startup_timeout=KERNEL_S)
        try:
            yield Kernel(client)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def test_a_notebook_stops_in_its_own_cell_if_somebody_can_answer_and_raises_if_not(kernel: Kernel, world: World) -> None:
    source = world.directory / "cell.txt"
    source.write_text("1\n0\n")
    cell = f"""
        import protheon_dask as protheon
        cluster = {connecting(world)}

        @protheon.pipeline(tables=[protheon.Table(name="public.of_cell", columns=(protheon.Column("n", "bigint"),))])
        def of_cell(line: bytes):
            divisor = int(line)
            return (100 // divisor,)

        shown = of_cell.preview({str(source)!r})
        run = cluster.load({str(source)!r}, of_cell)
        run.wait()
        print(shown.loaded, shown.rejected)
    """
    assert kernel.run(cell) == ("1 1\n", "")
    told, error = kernel.run("found = run.debug(run.rejects().iloc[0])", ["p divisor, line", "q"])
    assert error == ""
    assert "return (100 // divisor,)" in ANSI.sub("", told)
    assert "(0, b'0')" in told
    assert kernel.run("print(type(found.error).__name__)") == ("ZeroDivisionError\n", "")
    assert kernel.run("run.debug(run.rejects().iloc[0])")[1] == "ZeroDivisionError"

    run = run_of(world, int(kernel.run("print(run.id)")[0]))
    with pytest.raises(ZeroDivisionError) as caught:  # here no file and no cell has the code: it came by value
        run.debug(run.rejects().iloc[0])
    assert f"line 2 of {source}, byte 2: 0" in notes_of(caught.value)


def test_another_kernel_needs_the_row_alone(kernel: Kernel, orders: tuple[Run, Path], module_world: World, tmp_path: Path) -> None:
    """A process that has never seen the pipeline; the row went there as a pickle."""
    run, _ = orders
    row_of(run, 302).to_pickle(tmp_path / "row.pickle")
    code = f"""
        import pandas
        import protheon_dask as protheon
        try:
            {connecting(module_world)}.run({run.id}).debug(pandas.read_pickle({str(tmp_path / "row.pickle")!r}))
        except ZeroDivisionError as error:
            print(error, *error.__notes__, sep="|")
    """
    assert kernel.run(code)[0].startswith("integer division or modulo by zero|line 302 of ")


PAGE = (Path(__file__).parents[2] / "docs/debugging.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_on_debugging_shows_what_a_kernel_shows(kernel: Kernel, world: World) -> None:
    kernel.run(f"import os; os.chdir({str(world.directory)!r})")
    kernel.run(f"import protheon_dask as protheon; cluster = {connecting(world)}")
    assert [language for language, _ in BLOCKS] == ["json", *["python", "text"] * 4]
    (world.directory / "readings.jsonl").write_text(BLOCKS[0][1])
    for (_, code), (_, text) in zip(BLOCKS[1::2], BLOCKS[2::2], strict=True):
        told = ANSI.sub("", kernel.run(code)[0])
        assert [line for line in text.splitlines() if line not in told] == [], told
