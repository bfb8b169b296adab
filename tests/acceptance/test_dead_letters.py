"""Dead letters as people work with them: shown, replayed from kept bytes and from bytes that are cut again, and purged."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from protheon_dask.errors import ConfigError, NotFound
from protheon_dask.pipelines.find import find
from protheon_dask.telemetry.statistics import RunStatistics
from tests.acceptance.conftest import Gate, Type, World, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import wait_until
from tests.fixtures.web import WebServer

SETTINGS = {"chunk_lines": 100, "dead_at_failures": 1}
SHORT = "failed once: MemoryError"


@dataclass
class Dead:
    """A run of ten chunks of which some are dead, because memory is short until it is mended."""

    world: World
    name: str
    run: RunStatistics
    cause: Gate

    @property
    def load_id(self) -> int:
        [(load_id,)] = self.world.ask("SELECT DISTINCT load_id FROM protheon.run_load WHERE run_id = %s", self.run.run)
        return int(load_id)

    @property
    def tasks(self) -> list[int]:
        """The tasks that died, in the order of their chunks."""
        found = self.world.ask(
            "SELECT DISTINCT task_id FROM protheon.dead_letter JOIN protheon.task ON task.id = task_id WHERE load_id = %s", self.load_id
        )
        return sorted(task_id for (task_id,) in found)

    def files(self) -> list[int]:
        """First lines of the chunks whose bytes are in the workspace."""
        found = Path(self.world.cluster.settings.home).glob(f"workspace/*/{self.load_id}/*.zst")
        return sorted(int(path.name.split(".")[0]) for path in found)

    def letters(self) -> list[tuple[bool, bool]]:
        """Of each letter, by task: was it replayed, was it purged?"""
        return self.world.ask(
            "SELECT replayed_at IS NOT NULL, purged_at IS NOT NULL FROM protheon.dead_letter WHERE task_id = ANY(%s) ORDER BY task_id",
            self.tasks,
        )


def dying(world: World, name: str, cause: Gate, chunks: tuple[int, ...], mended: str = "pass") -> str:
    """A pipeline that dies in these chunks, counted from 0, until the cause is mended; then it does this there."""
    body = f"if n // 100 in {chunks!r}:\n    if not os.path.exists({str(cause.path)!r}): raise MemoryError('no room for it')\n    {mended}"
    return write_pipeline(world.directory, name, body)


def dead(world: World, name: str, cause: Gate, chunks: tuple[int, ...] = (2, 5), mended: str = "pass") -> Dead:
    source = write_numbers(world.directory / f"{name}.txt", 1_000)
    done = world.load(dying(world, name, cause, chunks, mended), source)
    assert (done.state, done.chunks_dead, done.dead_letters) == ("incomplete", len(chunks), len(chunks)), done.reason
    return Dead(world, name, done, cause)


def test_a_letter_shows_its_error_its_lines_and_every_attempt(world: World, type_: Type, gate: Gate) -> None:
    had = dead(world, "shown", gate)
    listed = type_("dlq", "list", had.run.run)
    assert (listed.code, f"2 x {SHORT}" in listed.out) == (0, True)
    assert f"with mended code: protheon load {world.directory}/shown.txt --pipeline FILE.py:shown" in listed.err
    assert f"once a cause outside of the code is mended: protheon dlq replay {had.run.run}" in listed.err
    bounded = type_("dlq", "list", had.run.run, "--limit", 1)
    assert (f"2 x {SHORT}" in bounded.out, "the first 1; --limit shows more" in bounded.err) == (True, True)
    told = type_("dlq", "show", "--task", had.tasks[0])
    assert (
        f"task {had.tasks[0]}: chunk 3 of load {had.load_id}, lines 201 to 300 of {world.directory}/shown.txt, bytes 690 to 1,090"
        in told.out
    )
    assert "MemoryError: no room for it" in told.out
    assert "Traceback (most recent call last)" in told.out

    [letter] = type_("dlq", "show", "--task", had.tasks[1], "--json").json
    assert (letter["status"], letter["chunk_no"], letter["first_line"], letter["n_lines"]) == ("open", 6, 501, 100)
    assert (letter["byte_offset"], letter["raw_bytes"], letter["error_class"]) == (1_890, 400, "MemoryError")
    [attempt] = letter["attempts"]
    assert (attempt["attempt_no"], attempt["outcome"], attempt["cost"]) == (1, "failed", "failure")
    assert attempt["host"]
    assert attempt["worker"]
    assert attempt["ended_at"] > attempt["started_at"]
    assert attempt["transform_s"] > 0
    assert attempt["fetch_s"] > 0
    assert "1,000 lines" not in type_("runs", "show", had.run.run).out
    ended = type_("runs", "show", had.run.run).out
    assert f"with mended code: protheon load {world.directory}/shown.txt --pipeline PIPELINE" in ended
    assert f"once a cause outside of the code is mended: protheon dlq replay {had.run.run}" in ended
    assert f"2 chunks {SHORT}: no room for it" in ended
    assert had.run.reason == f"2 chunks are dead: protheon dlq list {had.run.run}"

    mended = write_pipeline(world.directory, "shown", "pass")  # a replay keeps the code that came with the run; a load brings its own
    replayed = type_("dlq", "replay", had.run.run)
    assert (replayed.code, "ready again: 2 tasks, under the code that came with its run" in replayed.err) == (1, True)
    assert world.load(mended, world.directory / "shown.txt").state == "succeeded"
    assert numbers(world.url, "shown") == list(range(1_000))


def test_all_letters_of_a_run_are_replayed_from_the_bytes_that_were_kept(world: World, type_: Type, gate: Gate) -> None:
    had = dead(world, "kept", gate)
    wait_until(lambda: had.files() == [201, 501])
    (world.directory / "kept.txt").unlink()  # no source, no second cut
    again = type_("dlq", "replay", had.run.run)
    assert (again.code, f"2 chunks are dead: protheon dlq list {had.run.run}" in again.out) == (1, True)
    gate.open()

    done = type_("dlq", "replay", had.run.run, "--json")
    assert done.code == 0, done.err
    [told] = done.json["runs"]
    assert (done.json["tasks"], told["run"], told["state"], told["loaded"]) == (had.tasks, had.run.run, "succeeded", 1_000)
    assert numbers(world.url, "kept") == list(range(1_000))
    assert world.findings(had.run.run) == ()
    story = world.attempts(had.run.run)
    assert story[3] == story[6] == [("failed", "failure")] * 2 + [("succeeded", "nothing")]
    assert had.letters() == [(True, False)] * 4
    assert world.ask("SELECT DISTINCT failures FROM protheon.task WHERE id = ANY(%s)", had.tasks) == [(0,)]
    wait_until(lambda: had.files() == [])

    late = type_("dlq", "replay", had.run.run)
    assert (late.code, late.err.strip()) == (0, f"no dead letter of run {had.run.run} is open; it is succeeded")
    assert f"task {had.tasks[0]} was replayed before: it is succeeded" in type_("dlq", "replay", "--task", had.tasks[0]).err
    assert "left out: 4 replayed (--all shows them)" in type_("dlq", "list", had.run.run).err
    assert [row["status"] for row in type_("dlq", "list", had.run.run, "--all", "--json").json] == ["replayed"] * 4


def test_one_letter_is_replayed_alone_and_the_others_stay(world: World, type_: Type, gate: Gate) -> None:
    had = dead(world, "alone", gate)
    gate.open()
    first = type_("dlq", "replay", "--task", had.tasks[0])
    assert (first.code, f"1 chunk is dead: protheon dlq list {had.run.run}" in first.out) == (1, True)
    assert numbers(world.url, "alone") == [*range(500), *range(600, 1_000)]
    assert had.letters() == [(True, False), (False, False)]
    assert world.cluster.client.replay_dead_letters(task_ids=had.tasks).task_ids == (had.tasks[1],)
    assert world.finish(had.run.run).state == "succeeded"
    assert numbers(world.url, "alone") == list(range(1_000))


@pytest.mark.slow
def test_what_was_purged_is_gone_but_accounted_for_and_cut_again_in_one_pass(
    world: World, type_: Type, gate: Gate, web_server: WebServer
) -> None:
    """Three chunks cost the source's server as many requests as one alone: each of them begins at the source's head, a pass."""
    lines = [b"%d %s\n" % (n, random.Random(n).randbytes(400).hex().encode()) for n in range(1_000)]
    content = zstandard.compress(b"".join(lines))
    source = web_server.add("/numbers.zst", content)
    name = "purged"
    spec = Path(dying(world, name, gate, (2, 5, 7, 9)).rpartition(":")[0])
    spec.write_text(spec.read_text().replace("int(line)", "int(line.split()[0])"))
    done = world.finish(world.cluster.client.submit(find(f"{spec}:{name}"), [web_server.url("/numbers.zst")]).run_id)
    had = Dead(world, name, done, gate)
    assert done.dead_letters == 4
    wait_until(lambda: had.files() == [201, 501, 701, 901])

    assert type_("dlq", "purge", done.run).code == 2  # nobody is there to be asked
    first = type_("dlq", "purge", "--task", had.tasks[0], "--yes")
    assert (first.code, first.out.strip()) == (0, "1 dead letter purged")
    assert world.cluster.client.purge_dead_letters(done.run).task_ids == tuple(had.tasks[1:])
    wait_until(lambda: had.files() == [])
    assert type_("dlq", "purge", done.run, "--yes").out.strip() == "nothing to purge: no letter was open"
    again = type_("dlq", "purge", "--task", had.tasks[0], "--yes")
    assert (again.code, f"task {had.tasks[0]} was purged before" in again.err) == (0, True)

    assert world.findings(done.run) == (f"load {had.load_id}: 4 chunks are dead",)
    now = world.cluster.client.get(done.run)
    assert (now.state, now.chunks_dead, now.dead_letters, now.lines) == ("incomplete", 4, 0, 600)
    assert f"see: protheon dlq list {done.run} --all" in type_("runs", "show", done.run).out
    assert "left out: 4 purged (--all shows them)" in type_("dlq", "list", done.run).err
    assert [row["status"] for row in type_("dlq", "list", done.run, "--all", "--json").json] == ["purged"] * 4
    left = type_("dlq", "replay", done.run)
    assert (left.code, "purged: 4, which `protheon dlq replay --task N` takes up again" in left.err) == (1, True)

    gate.open()
    requests = []
    for tasks in (had.tasks[:1], had.tasks[1:]):
        source.requests.clear()
        named = [argument for task_id in tasks for argument in ("--task", task_id)]
        replayed = type_("dlq", "replay", *named, "--json")
        requests.append([sent for _, sent in source.requests])
    assert (replayed.code, replayed.json["runs"][0]["state"]) == (0, "succeeded")
    assert requests[1] == requests[0] != []
    assert numbers(world.url, name) == list(range(1_000))
    assert world.ask("SELECT generation FROM protheon.chunk WHERE task_id = ANY(%s)", had.tasks) == [(2,)] * 4
    assert world.findings(done.run) == ()


def test_eight_clients_replay_or_purge_at_once_and_each_letter_is_closed_once(world: World, gate: Gate) -> None:
    had = dead(world, "crowd", gate, (1, 3, 5, 7))
    gate.open()
    client = world.cluster.client
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: (client.purge_dead_letters if n % 2 else client.replay_dead_letters)(had.run.run), range(8)))
    taken = [task_id for answer in answers for task_id in answer.task_ids]
    assert sorted(taken) == had.tasks
    client.replay_dead_letters(task_ids=had.tasks)
    done = world.finish(had.run.run)
    assert (done.state, numbers(world.url, "crowd")) == ("succeeded", list(range(1_000)))
    assert {replayed for replayed, _ in had.letters()} == {True}
    assert [outcome for attempts in world.attempts(had.run.run).values() for outcome, _ in attempts].count("succeeded") == 10


def test_replaying_while_the_run_goes_on_and_while_it_is_paused(world: World, type_: Type, gate: Gate, tmp_path: Path) -> None:
    """Chunks that are mended wait until the gate is open."""
    had = dead(
        world, "going", cause := Gate(tmp_path / "mended"), (1, 3, 5), f"while not os.path.exists({str(gate.path)!r}): time.sleep(0.02)"
    )
    cause.open()
    client, run_id = world.cluster.client, had.run.run
    first = client.replay_dead_letters(task_ids=had.tasks[:1])
    assert (first.task_ids, first.run_ids) == ((had.tasks[0],), (run_id,))
    wait_until(lambda: client.get(run_id).chunks_running == 1)
    second = client.replay_dead_letters(task_ids=had.tasks[:2])
    assert (second.task_ids, second.run_ids) == ((had.tasks[1],), (run_id,))
    wait_until(lambda: client.get(run_id).chunks_running == 2)
    assert any(notice in (f"task {had.tasks[0]} was replayed before: it is running",) for notice in second.notices)
    assert client.pause(run_id).state == "paused"

    held = type_("dlq", "replay", run_id)
    assert (held.code, f"run {run_id} is paused" in held.err, "paused by hand" in held.out) == (1, True, True)
    assert f"to go on: protheon runs resume {run_id}" in held.out
    assert world.ask("SELECT state FROM protheon.task WHERE id = %s", had.tasks[2]) == [("ready",)]
    gate.open()
    assert type_("runs", "resume", run_id).code == 0
    assert (world.finish(run_id).state, numbers(world.url, "going")) == ("succeeded", list(range(1_000)))


def test_a_run_that_waited_for_the_owner_goes_on_with_it(world: World, gate: Gate, tmp_path: Path) -> None:
    cause = Gate(tmp_path / "mended")
    body = f"if n // 100 == 4 and not os.path.exists({str(cause.path)!r}):\n    raise MemoryError('no room for it')\n" + gate.body(0, 100)
    source = write_numbers(world.directory / "n.txt", 1_000)
    spec = write_pipeline(world.directory, "attached", body)
    first = world.submit(spec, source)
    second = world.submit(spec, source)
    assert [load.joined for load in second.loads] == ["attached"]
    gate.open()
    assert [world.finish(run.run_id).state for run in (first, second)] == ["incomplete", "incomplete"]
    cause.open()
    replayed = world.cluster.client.replay_dead_letters(second.run_id)
    assert replayed.run_ids == (first.run_id, second.run_id)
    assert f"run {first.run_id} goes on with files of run {second.run_id}: it has taken them over" in replayed.notices
    assert [world.finish(run.run_id).state for run in (first, second)] == ["succeeded", "succeeded"]
    assert numbers(world.url, "attached") == list(range(1_000))


@pytest.mark.slow
def test_what_cannot_be_replayed_says_why_and_what_to_do(world: World, type_: Type, gate: Gate) -> None:
    had = dead(world, "refused", gate)
    client = world.cluster.client
    with pytest.raises(NotFound, match="there is no task 987654"):
        client.replay_dead_letters(task_ids=[had.tasks[0], 987_654])
    with pytest.raises(NotFound, match="there is no run 987654"):
        client.purge_dead_letters(987_654)
    done = list(world.ask("SELECT id FROM protheon.task WHERE load_id = %s AND state = 'succeeded' ORDER BY id", had.load_id))
    assert f"task {done[0][0]} was never dead: it is succeeded" in client.replay_dead_letters(task_ids=[done[0][0]]).notices
    assert type_("dlq", "replay", had.run.run, "--task", had.tasks[0]).code == 2
    assert type_("dlq", "list", had.run.run, "--queue").code == 2
    for more in ((), ("--json",)):
        nothing = type_("dlq", "show", "--task", done[0][0], *more)
        assert (nothing.code, nothing.out, f"there is no dead letter of task {done[0][0]}" in nothing.err) == (2, "", True)

    spec = dying(world, "refused", gate, (2, 5))
    held = world.submit(spec, world.directory / "refused.txt")  # goes on with the load, and is its owner
    world.finish(held.run_id)
    world.ask("UPDATE protheon.run SET state = 'cancelled' WHERE id = %s RETURNING id", held.run_id)
    with pytest.raises(ConfigError, match=f"run {held.run_id} was cancelled: type its `protheon load` again"):
        client.replay_dead_letters(task_ids=had.tasks)
    told = type_("dlq", "replay", had.run.run)
    assert (told.code, f"run {held.run_id} was cancelled" in told.err) == (2, True)

    gate.open()
    again = world.load(spec, world.directory / "refused.txt", again=True)
    assert again.state == "succeeded"
    with pytest.raises(ConfigError, match=f"load {had.load_id} .*/refused.txt. is retired: another load has taken its place"):
        client.replay_dead_letters(task_ids=had.tasks)
    assert world.ask("SELECT DISTINCT state FROM protheon.task WHERE id = ANY(%s)", had.tasks) == [("dead",)]
    assert type_("dlq", "purge", had.run.run, "--yes").out.strip() == "2 dead letters purged"
