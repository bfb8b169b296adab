"""The notebooks from their first cell to their last, as a person who has nothing runs them: what they show is what they promise."""

from __future__ import annotations

import ast
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.conftest import World
from tests.fixtures.kernel import Cell, run_cells

ROOT = Path(__file__).parents[2]
WHOLE_S = 300
"""Of a notebook that takes a quarter of a minute by itself: the machine is shared."""


@dataclass(frozen=True)
class Shown:
    """A notebook that was run."""

    cells: list[Cell]
    seconds: float

    def cell(self, part: str) -> Cell:
        """The one cell whose code is this, or else has this part."""
        [found] = [cell for cell in self.cells if part == cell.code] or [cell for cell in self.cells if part in cell.code]
        return found

    def text(self, part: str) -> str:
        """What that cell shows last, as text."""
        return self.cell(part).text

    def rows(self, part: str) -> list[list[str]]:
        """The table that it shows last, without its index: as a page has it, for text is broken where it is wide."""
        found = re.findall(r"<tr>(.*?)</tr>", self.cell(part).shown["text/html"], re.DOTALL)
        return [cells for row in found if (cells := re.findall(r"<td>(.*?)</td>", row))]

    def printed(self, part: str) -> str:
        return self.cell(part).printed


Run = Callable[..., Shown]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a notebook in a directory and a home of its own; variables: the environment's. No cell of it may fail."""

    def run(name: str, **variables: str) -> Shown:
        notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())
        code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PROTHEON_", "PG", "DATABASE_URL"))}
        environment = {**kept, "PYTHONPATH": str(ROOT), "PROTHEON_HOME": str(tmp_path / "home"), **variables}
        began_s = time.monotonic()
        return Shown(run_cells(code, tmp_path, environment), time.monotonic() - began_s)

    return run


def is_verified(text: str) -> bool:
    return re.match(r"run \d+: verified\n", text) is not None and "differs" not in text


@pytest.mark.timeout(WHOLE_S)
def test_a_first_load_into_a_postgresql_that_was_not_there(run: Run) -> None:
    first = run("01_first_load")
    assert "2 workers  ·  into database" in first.text("cluster = protheon.local()")
    card = first.text("run = cluster.load(")  # drawn anew by what came after
    assert re.match(r"run 1 +· +jsonl +· +reports.jsonl.zst: succeeded\n", card)
    assert "first.reports: 9,997 inserted, 0 updated, 0 ignored" in card
    assert first.printed("done = run.wait()") == "succeeded 9997 loaded, 3 refused\n"
    assert len(first.rows("run.rejects()")) == 3
    assert sum(int(games) for _, games, _ in first.rows("SELECT doc->")) == 9_997
    assert "nothing was loaded: it was loaded by run 1" in first.text("again = cluster.load(")
    assert first.printed("again = cluster.load(") == "files skipped: 1\n"
    assert is_verified(first.text("verified = run.verify()"))


@pytest.mark.timeout(WHOLE_S)
def test_when_things_break_every_line_is_there_once_at_the_end(run: Run, database: str) -> None:
    check_broken(run("03_when_things_break", PROTHEON_DATABASE_URL=database))


def check_broken(shown: Shown) -> None:
    for killed in ("psutil.Process(pid).kill()", "run_on_scheduler"):
        assert shown.printed(killed).startswith("killed: the ")
    assert shown.printed("done = run.wait()") == "incomplete: 11 of 12 chunks are loaded, 1 given up\n"
    tried = [chunk_no for chunk_no, *_ in shown.rows("attempts = run.attempts()")]
    assert tried.count("11") >= 3, "one chunk ended three workers"
    assert [row[3] for row in shown.rows("letters = run.dead_letters()")] == ["crashed or stalled its worker 3 times"]
    died = shown.text("run.debug(letters.iloc[0])")
    assert re.match(r"line 2,601 of .*: ", died)
    assert "there the pipeline ended the process with code 1" in died
    assert "its 250 lines pass here" in shown.text("dictionary.write_text")
    assert shown.printed("run.replay_dead_letters()") == "succeeded\n"
    assert re.match(r"run \d+ .*: succeeded\n", shown.text("run = cluster.load("))  # the card was drawn anew after each of these
    assert [line for line, _ in shown.rows('run.rejects()[["line", "reason"]]')] == ["251", "2251"]
    [(line, reason)] = shown.rows("replay = run.replay_rejects(")
    assert (line, reason[:24]) == ("251", "Input data was truncated"), "half a line stays refused"
    assert is_verified(shown.text("verified = run.verify(deep=True)"))
    assert "2,998 rows of 12 chunks counted" in shown.text("verified = run.verify(deep=True)")
    counted = shown.printed("counts = run.progress()")
    assert counted == "3000 lines = 2998 loaded by the run + 2 refused by it\nof which were loaded since: 1\n"


@pytest.mark.slow
@pytest.mark.timeout(WHOLE_S)
def test_a_pipeline_of_ones_own_in_the_cluster_that_a_lab_has_started(run: Run, world: World) -> None:
    own = run("02_your_own_pipeline", PROTHEON_HOME=str(world.cluster._home), PROTHEON_DATABASE_URL=world.url)
    assert "5 loaded" in own.text("games.preview(made.path)")
    assert own.printed("seen = games.preview").startswith("3997 would be loaded, 3 refused:\n")
    assert own.text("run = cluster.load(made.path, pipeline=games)") == "()"
    assert own.printed("run.debug(missing, pdb=False)").startswith("KeyError: 'instanceId'\nline 3,001 of ")
    assert "pipeline games passes it here" in own.text("def mended(")
    [(_, left)] = own.rows("replay = run.replay_rejects(")
    assert left.startswith("Input data was truncated")
    assert world.ask("SELECT count(*), count(DISTINCT game_id) FROM own.games") == [(3_999, 3_999)]
    assert "3 loaded" in own.text("hours.preview(")
    assert world.ask("SELECT sum(games) FROM own.hours") == [(3_998,)]  # a frame needs JSON, and the others of the six are JSON
    assert own.text("counted.verify()") == "[(), 1]"
    assert world.cluster.client.info().n_threads == 2, "it was the lab's, and stays"


@pytest.mark.slow
@pytest.mark.timeout(WHOLE_S)
def test_exploring_with_dask_ends_with_plots(run: Run, database: str) -> None:
    explored = run("04_explore_with_dask", PROTHEON_DATABASE_URL=database)
    assert explored.text("chunks = cluster.chunks(").startswith("6 chunks: 6,000 lines")
    assert explored.printed("lines = chunks[0]").startswith("1000 lines; the first begins with b'{")
    assert sum(count for _, count in ast.literal_eval(explored.text(".frequencies()"))) == 6_000
    assert explored.text('frame.groupby("characters")').split()[:3] == ["kills", "minutes", "characters"]
    assert int(re.findall(r"\d+", explored.printed("def longest"))[0]) > 5_000
    assert explored.text('pipeline="pgcr"') == "6000"
    assert sum(int(games) for _, games, _ in explored.rows("SELECT player_count")) == 6_000
    for plot in ("plot.vbar(", "plot.line("):
        assert "Bokeh" in explored.cell(plot).shown["text/html"] + explored.cell(plot).shown["application/javascript"]


@pytest.mark.slow
@pytest.mark.timeout(WHOLE_S)
def test_one_cluster_is_reached_from_several_places(run: Run, database: str) -> None:
    many = run("05_many_machines", PROTHEON_DATABASE_URL=database)
    assert re.match(r"run 1 .*: succeeded\n", many.text("run = remote.load("))
    assert many.printed("subprocess.check_output") == "run 1 succeeded with 10000 lines, seen from another process\n\n"
    raw_mb, wire_mb, n_chunks = map(int, re.findall(r"\d+", many.printed("on the wire")))
    assert (0 < 5 * wire_mb < raw_mb, n_chunks > 1) == (True, True)
    assert "copy_s" in many.text("stages = [")
    assert "bound by" in many.printed("run.story().bound")
    assert is_verified(many.text("verified = run.verify()"))
    assert many.printed("remote.close()") == "the guest has left, the cluster stays; its runs: 1\n"


@pytest.mark.slow
@pytest.mark.timeout(2 * WHOLE_S)
def test_a_notebook_tells_the_same_story_when_it_is_run_again_over_the_same_database(run: Run, database: str) -> None:
    for _ in range(2):
        check_broken(run("03_when_things_break", PROTHEON_DATABASE_URL=database))
