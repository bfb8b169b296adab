"""``protheon demo``: the whole product in one command, with a worker killed in the middle on purpose."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import psutil
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from protheon_dask import words
from protheon_dask.cli import exits, output
from protheon_dask.cli.display import Display, display
from protheon_dask.cli.load import tell, watch
from protheon_dask.cli.summary import headline, rows_table
from protheon_dask.cli.verbs import EMBEDDED, effective_settings, json_option, resolved
from protheon_dask.model import Outcome
from protheon_dask.run.exits import INCOMPLETE
from protheon_dask.telemetry.ended import lines_sentence, speed_sentence
from protheon_dask.telemetry.statistics import RunStatistics

if TYPE_CHECKING:
    from protheon_dask.pipelines.sample import SampleReport
    from protheon_dask.run.api import LocalCluster

LINES: Final = 20_000
CHUNKS: Final = 16  # at least so many,
CHUNKS_A_WORKER: Final = 4  # and so many that all have one in hand when one is killed
MOST_CHUNK_LINES: Final = 50_000
BAD_LINES: Final = 6  # one of each kind that the sample knows
KILL_AFTER: Final = 1 / 3  # of the chunks
LOOK_S: Final = 2.0  # at a time: the display goes on meanwhile
HOLD_S: Final = 3.0  # longer than a chunk takes the others
FREEZE_S: Final = 0.05  # a commit that was under way when the process froze has ended by then
MOST_ATTEMPTS: Final = 1_000_000
EXAMPLE_CHARACTERS: Final = 120
QUERY: Final = (
    "select display_name, sum(kills) from pgcr.instance_character join pgcr.destiny_player using (membership_id) "
    "group by 1 order by 2 desc limit 5"
)
Row = Mapping[str, Any]


@click.command()
@click.option("--lines", type=click.IntRange(min=CHUNKS), default=LINES, show_default=True, help="Reports to make and load.")
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes; left out, by cores and memory.")
@json_option
def demo(lines: int, workers: int | None, as_json: bool) -> None:
    """Make reports, load them into an embedded PostgreSQL, and kill a worker on the way.

    Everything runs on this machine and nothing is left running. The data stay: `protheon sql` answers from them.
    Each demo makes other reports than the one before.

    \b
    Example:  protheon demo --lines 100000
    """
    from protheon_dask.pipelines.find import find
    from protheon_dask.run import api
    from protheon_dask.run.settings import home_of

    effective = effective_settings()
    database = resolved(effective, EMBEDDED)
    with display(quiet=False) as progress:
        made = make_reports(home_of(effective.settings) / "demo", lines, progress)
        with api.local(effective, database, workers=workers, force_own=True, on_event=progress.event) as cluster:
            n_chunks = max(CHUNKS, CHUNKS_A_WORKER * cluster.n_workers)
            chunk_lines = max(1, min(MOST_CHUNK_LINES, lines // n_chunks))
            submitted = cluster.client.submit(
                find("pgcr"), [str(made.path)], chunk_lines=chunk_lines, reject_limit=None, again=True, replace=False
            )
            tell(submitted.notices, progress)
            killer = Killer(cluster, submitted.run_id, progress)
            final = watch(cluster.client, submitted.run_id, progress, goes_on=False, on_change=killer.look)
            story = killer.story()
            example = api.report(cluster.url, "rejects", final.run, limit=1)
            findings = (*api.verify_run(cluster.url, final.run).findings, *differences(made, final))
            cluster.wait_others(progress.note)
    if as_json:
        output.emit_json({**final.summary(), "killed": story.killed, "taken_over": story.taken_over, "lost": lost_rows(made, final)})
    else:
        is_default = False
        with suppress(api.SeveralMasters):
            is_default = api.resolve_database(effective, None).embedded
        output.emit_drawing(*ending(made, final, [story.sentence(lost_rows(made, final)), *findings], example, database.origin))
        output.emit_drawing(*next_commands(made.path, "" if is_default else f" --database {EMBEDDED}"), wrap=False)
    click.get_current_context().exit(INCOMPLETE if findings else exits.of_state(final.state))


def make_reports(directory: Path, lines: int, progress: Display) -> SampleReport:
    """Write the next demo's file, with a seed of its own, and delete those of the demos before."""
    from protheon_dask.pipelines.sample import write_sample

    directory.mkdir(parents=True, exist_ok=True)
    names = [(path, re.fullmatch(r"demo-(\d+)\.jsonl\.zst(\.part)?", path.name)) for path in directory.iterdir()]
    earlier = {path: int(match[1]) for path, match in names if match}
    seed = max(earlier.values(), default=0) + 1
    began_s = time.monotonic()
    made = write_sample(directory / f"demo-{seed}.jsonl.zst", lines, seed=seed, n_bad=BAD_LINES)
    for path in earlier:
        path.unlink(missing_ok=True)
    sizes = f"{words.size(made.raw_bytes)} of JSON in {words.size(made.stored_bytes)}"
    progress.event(f"{words.count(lines)} reports made in {words.duration(time.monotonic() - began_s)}: {sizes}")
    return made


class Killer:
    """Kills one worker process that has a chunk in hand, and reads from the ledger what became of the chunk."""

    def __init__(self, cluster: LocalCluster, run_id: int, progress: Display) -> None:
        self._cluster, self._run_id, self._progress = cluster, run_id, progress
        self._killed: str | None = None
        self._open_then: list[tuple[int, int]] = []  # (task, attempt) of all workers at that moment

    def look(self, s: RunStatistics) -> None:
        """Strike once, when a third of the chunks is in and some are in hand."""
        if self._killed is None and s.chunks_running and s.chunks_done >= KILL_AFTER * s.chunks:
            end_s = time.monotonic() + LOOK_S
            while self._killed is None and time.monotonic() < end_s:
                self._strike()

    def _strike(self) -> None:
        """Freeze a process, look whether it has a chunk in hand, and kill it only then."""
        workers = self._cluster.worker_pids()
        if not workers:
            return
        name, pid = workers[-1]
        try:
            process = psutil.Process(pid)
            process.suspend()
            in_hand = self._held(len(workers))
            if not in_hand:
                process.resume()
                time.sleep(FREEZE_S)
                return
            process.kill()
        except psutil.NoSuchProcess:
            return
        self._killed = name.removeprefix("worker ")
        self._open_then = in_hand
        self._progress.note(f"a worker (process {pid}) was killed on purpose, with a chunk in hand")

    def _held(self, n_workers: int) -> list[tuple[int, int]]:
        """Attempts of which one is the frozen process's; none: it has no chunk.

        An attempt does not name the operating system's process. The frozen one has a chunk if all workers have; else its
        attempt is one that stays open while those of the others end.
        """
        time.sleep(FREEZE_S)
        rows = self._open()
        held = {(row["task_id"], row["attempt_no"]) for row in rows}
        if len({row["process_uuid"] for row in rows}) < n_workers:
            end_s = time.monotonic() + HOLD_S
            while held and time.monotonic() < end_s:
                time.sleep(FREEZE_S)
                held &= {(row["task_id"], row["attempt_no"]) for row in self._open()}
        return sorted(held)

    def _attempts(self) -> list[dict[str, Any]]:
        from protheon_dask.run import api

        return api.report(self._cluster.url, "attempts", self._run_id, limit=MOST_ATTEMPTS)

    def _open(self) -> list[dict[str, Any]]:
        return [row for row in self._attempts() if row["ended_at"] is None]

    def story(self) -> Story:
        """What the ledger says, at the end."""
        return story_of(self._killed, self._open_then, self._attempts())


@dataclass(frozen=True, slots=True)
class Story:
    """The killing, as the ledger tells it."""

    killed: str | None  # the worker, by its name there
    taken_over: int  # chunks

    def sentence(self, lost: int) -> str:
        if self.killed is None:
            return f"no worker was killed: none had a chunk in hand at the moment; {words.counted(lost, 'row')} lost"
        return f"worker {self.killed} killed: {words.counted(self.taken_over, 'chunk')} taken over, {words.counted(lost, 'row')} lost"


def story_of(killed: str | None, open_then: Sequence[tuple[int, int]], attempts: Sequence[Row]) -> Story:
    """Find the attempts that were open at the kill and died of it, and whether others loaded their chunks.

    killed: a name for the worker where the ledger has none: its commit was faster than the kill.
    """
    by_key = {(row["task_id"], row["attempt_no"]): row for row in attempts}
    died = [by_key[key] for key in open_then if key in by_key and by_key[key]["outcome"] in (Outcome.CRASHED, Outcome.EXPIRED)]
    loaded = {row["task_id"] for row in attempts if row["outcome"] == Outcome.SUCCEEDED}
    return Story(died[0]["worker"] if died else killed, sum(row["task_id"] in loaded for row in died))


def expected_rows(made: SampleReport) -> dict[str, int]:
    """Rows that the file has for each table where its maker counts them."""
    return {
        "pgcr.instance": made.n_lines - len(made.bad),
        "pgcr.instance_character": made.n_entries,
        "pgcr.instance_character_weapon": made.n_weapons,
    }


def lost_rows(made: SampleReport, final: RunStatistics) -> int:
    """Rows of the file that no committed chunk brought."""
    brought = {count.table: count.offered for count in final.rows}
    return sum(max(0, wanted - brought.get(table, 0)) for table, wanted in expected_rows(made).items())


def differences(made: SampleReport, final: RunStatistics) -> list[str]:
    """What differs between the file as it was made and what the ledger counted; nothing if all is well."""
    wanted = {"lines": made.n_lines, "rejects": len(made.bad), **expected_rows(made)}
    brought = {"lines": final.lines, "rejects": final.rejected, **{count.table: count.offered for count in final.rows}}
    return [f"{name}: {brought.get(name, 0)} instead of {n}" for name, n in wanted.items() if brought.get(name, 0) != n]


def ending(made: SampleReport, final: RunStatistics, sentences: Sequence[str], example: Sequence[Row], origin: str) -> list[RenderableType]:
    """What a person reads at the end."""
    good, bad = sentences[0], sentences[1:]
    source = f"{words.size(made.raw_bytes)} of JSON in {words.size(made.stored_bytes)}, {words.counted(final.chunks, 'chunk')}"
    facts: list[tuple[str, RenderableType]] = [
        ("lines", Text(lines_sentence(final))),
        ("speed", Text(speed_sentence(final))),
        ("input", Text(source)),
        ("failure", Text(good, style="green" if not bad else "")),
    ]
    facts += [("differs", Text(sentence, style="bold red")) for sentence in bad]
    if example:
        row = example[0]
        raw = bytes(row["raw"])[:EXAMPLE_CHARACTERS].decode("utf-8", "backslashreplace").replace("\0", "\\x00")
        facts.append(("a reject", Text.assemble((f"line {words.count(row['line'])}: {row['reason']}\n", "yellow"), (f"{raw} ..", "dim"))))
    facts.append(("the data", Text(f"stay in PostgreSQL: {origin}")))
    return [
        Padding(headline(final), (1, 0, 1, 2)),
        Padding(rows_table(final), (0, 0, 1, 2)),
        Padding(output.record(facts), (0, 0, 0, 2)),
    ]


def next_commands(path: Path, database: str) -> list[RenderableType]:
    """Three commands that work at once, and what each is for."""
    commands = [
        (f"protheon sql{database} {shlex.quote(QUERY)}", "the players with the most kills"),
        (f"protheon rejects show{database}", "the broken lines, with what is wrong"),
        (
            f"protheon load --pipeline pgcr{database.replace('database', 'into')} {shlex.quote(str(path))}",
            "the same file again: nothing is loaded twice",
        ),
    ]
    drawing: list[RenderableType] = [Padding(Text("Now try", style="bold"), (1, 0, 0, 2))]
    drawing += [Padding(Text.assemble((f"# {why}\n", "dim"), (command, "cyan")), (0, 0, 0, 4)) for command, why in commands]
    return [*drawing, Text("")]
