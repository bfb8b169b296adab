"""Dead letters: which tasks gave up and why, how they are taken up again, and how they are given up for good.

Each function takes the connection first, works in the caller's transaction and never commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from protheon_dask.errors import ConfigError, LeadershipLost, NotFound
from protheon_dask.ledger import undo, verbs
from protheon_dask.ledger.rows import rows
from protheon_dask.ledger.runs import existing_run
from protheon_dask.model import RunState, TaskState

LETTERS = 1_000
"""Letters of a report that was not asked for more."""


@dataclass(frozen=True, slots=True)
class Letters:
    """Dead letters to which something happened. run_ids: runs that go on, or wait, with their tasks; notices are for the person."""

    task_ids: tuple[int, ...]
    run_ids: tuple[int, ...] = ()
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PurgedFile:
    """Where the bytes of a chunk are that was given up."""

    load_id: int
    first_line: int
    generation: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a person means: every open letter of a run, or the tasks that they name (run_id 0)."""

    run_id: int
    loads: dict[int, int | None]  # by task, None for one of the general queue
    n_purged: int = 0  # of a run: dead chunks that were given up
    stand: tuple[dict[str, Any], ...] = ()  # of tasks that were named: where each one stands


def choose(conn: psycopg.Connection, run_id: int, task_ids: Sequence[int]) -> Chosen:
    """Look up what is meant; run_id 0 is the latest run. Raises NotFound: no such run, no such task."""
    if not task_ids:
        number = existing_run(conn, run_id or None)
        n_purged = sum(row["n"] for row in counts(conn, number) if row["status"] == "purged")
        return Chosen(number, {row["task_id"]: row["load_id"] for row in rows(conn, "letters_of_run", {"run_id": number})}, n_purged)
    stand = rows(conn, "letters_of_tasks", {"task_ids": list(task_ids)})
    if missing := sorted(set(task_ids) - {row["task_id"] for row in stand}):
        raise NotFound(f"there is no task {missing[0]}: `protheon dlq list RUN` names those that are dead")
    return Chosen(0, {row["task_id"]: row["load_id"] for row in stand}, stand=tuple(stand))


def replay(conn: psycopg.Connection, epoch: int, chosen: Chosen, *, ephemeral: bool) -> Letters:
    """Make dead tasks ready again, and bring the runs back that had ended over them; what ends a run comes again, too.

    ephemeral: the cluster that goes on with them lives as long as one command.
    Raises:    ConfigError: a task that was named cannot be replayed, and why; of a run: none of its letters can. LeadershipLost.
               Nothing was written then; roll back.
    Guarantee: idempotent; who comes second finds none open. Submissions of the same sources, undos and replays of rejects take turns
               with it. Attempts and letters are kept. A run that is paused stays paused.
    """
    load_ids = sorted({load_id for load_id in chosen.loads.values() if load_id is not None})
    # The order of all who lock several: undo's advisory lock, source, load, run, task, attempt, dead letter, each by id. So the first
    # look at the runs locks none: a cancellation that holds their loads would wait for them, and this for the loads.
    for owner in rows(conn, "look_owners", {"load_ids": load_ids}):
        undo.refuse_while_undoing(conn, owner["run_id"])
    undo.take_turns(conn, load_ids)
    rows(conn, "lock_loads", {"load_ids": load_ids})
    owners = {row["load_id"]: row for row in _owners(conn, load_ids)}
    for run_id in {row["run_id"] for row in owners.values()}:
        undo.refuse_while_undoing(conn, run_id)
    rows(conn, "lock_dead_tasks", {"task_ids": list(chosen.loads)})
    now = {row["task_id"]: row for row in rows(conn, "letters_of_tasks", {"task_ids": list(chosen.loads)})}
    is_named = bool(chosen.stand)  # of a run, what somebody purges at this moment stays so
    wanted = [task_id for task_id, row in now.items() if row["state"] == TaskState.DEAD and (is_named or not row["is_purged"])]
    refused = {
        task_id: why
        for task_id in wanted
        if (load_id := chosen.loads[task_id]) is not None and (why := _why_not(owners[load_id])) is not None
    }
    if refused and (is_named or len(refused) == len(wanted)):
        raise ConfigError("; ".join(dict.fromkeys(f"{_tasks(refused, why)}: {why}" for why in refused.values())))
    if not rows(conn, "check_lead", {"epoch": epoch}):
        raise LeadershipLost(epoch)
    takes = [task_id for task_id in wanted if task_id not in refused]
    taken_loads = {load_id for task_id in takes if (load_id := chosen.loads[task_id]) is not None}
    gate = {owners[load_id]["run_id"] for load_id in taken_loads}
    params = {"run_ids": sorted(gate), "load_ids": sorted(taken_loads), "ephemeral": ephemeral}
    reopened = {row["run_id"] for row in rows(conn, "reopen_runs", params)} if gate else set()
    taken = verbs.replay(conn, task_ids=takes)
    return Letters(tuple(taken), tuple(sorted(reopened | gate | _at_work(conn, chosen, now))), tuple(_told(chosen, owners, now, refused)))


def purge(conn: psycopg.Connection, chosen: Chosen) -> tuple[Letters, list[PurgedFile]]:
    """Give dead tasks up: they stay dead and listed, and their files are of no use; return those as well.

    Guarantee: idempotent; of a replay and a purge at the same moment the first one wins. Replaying one by its number still works.
    """
    purged = rows(conn, "purge", {"task_ids": list(chosen.loads), "now": None})
    files = [PurgedFile(row["load_id"], row["first_line"], row["generation"]) for row in purged if row["load_id"] is not None]
    notices = [
        f"task {row['task_id']} was purged before" if row["is_purged"] else _not_dead(row)
        for row in chosen.stand
        if row["state"] != TaskState.DEAD or row["is_purged"]
    ]
    return Letters(tuple(row["task_id"] for row in purged), notices=tuple(notices)), files


def listed(
    conn: psycopg.Connection,
    run_id: int | None,
    limit: int = LETTERS,
    task_id: int | None = None,
    *,
    queue: bool = False,
    everything: bool = False,
) -> list[dict[str, Any]]:
    """Letters with the error of their last attempt, newest first: of a run's loads, of the general queue, or of one task.

    everything: those that were replayed or purged, too.
    """
    params = {"run_id": run_id, "task_id": task_id, "queue": queue, "closed": everything, "limit": limit}
    return list(rows(conn, "report_dead_letters", params))


def counts(conn: psycopg.Connection, run_id: int | None, *, queue: bool = False) -> list[dict[str, Any]]:
    """How many letters there are of a run, or of the general queue, by (status, reason, error_class); message: of the first of them."""
    return list(rows(conn, "count_dead_letters", {"run_id": run_id, "queue": queue}))


def attempts(conn: psycopg.Connection, task_ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Every attempt at these tasks, by task, the first one first."""
    found: dict[int, list[dict[str, Any]]] = {task_id: [] for task_id in task_ids}
    for row in rows(conn, "attempts_of_tasks", {"task_ids": list(task_ids)}):
        found[row["task_id"]].append(dict(row))
    return found


def states(conn: psycopg.Connection, task_ids: Sequence[int]) -> dict[int, TaskState]:
    """Where these tasks stand now."""
    return {look.task_id: look.state for look in verbs.look(conn, task_ids)}


# --- why not, and what else is to be known ---------------------------------------------------------------------------------


def _owners(conn: psycopg.Connection, load_ids: Sequence[int]) -> list[dict[str, Any]]:
    return list(rows(conn, "owners_of_loads", {"load_ids": list(load_ids)})) if load_ids else []


def _why_not(owner: dict[str, Any]) -> str | None:
    """Why the dead tasks of a load cannot be replayed; None: they can."""
    if owner["is_undone"]:
        return f"load {owner['load_id']} ({owner['path']}) is undone: load its file anew"
    if owner["is_retired"]:
        return f"load {owner['load_id']} ({owner['path']}) is retired: another load has taken its place"
    if owner["run_state"] == RunState.CANCELLED:
        return f"run {owner['run_id']} was cancelled: type its `protheon load` again, which goes on with its files, dead chunks too"
    return None


def _at_work(conn: psycopg.Connection, chosen: Chosen, now: dict[int, dict[str, Any]]) -> set[int]:
    """Runs that have the tasks in hand though none of them was open: somebody else replayed them, or the answer was lost."""
    going_on = (RunState.QUEUED, RunState.RUNNING, RunState.PAUSED)
    if chosen.stand:
        live = (TaskState.READY, TaskState.RUNNING)
        return {row["owner_run_id"] for row in now.values() if row["state"] in live and row["run_state"] in going_on}
    return {row["id"] for row in rows(conn, "state_of_run", {"run_id": chosen.run_id}) if row["state"] in going_on}


def _told(chosen: Chosen, owners: dict[int, dict[str, Any]], now: dict[int, dict[str, Any]], refused: dict[int, str]) -> list[str]:
    notices = [_not_dead(row) for row in now.values() if chosen.stand and row["state"] != TaskState.DEAD]
    notices += dict.fromkeys(f"{_tasks(refused, why)} stay dead: {why}" for why in refused.values())
    paused = sorted({row["run_id"] for row in owners.values() if row["run_state"] == RunState.PAUSED})
    notices += [f"run {run_id} is paused: what is ready waits until it goes on: protheon runs resume {run_id}" for run_id in paused]
    if not chosen.stand:
        if not chosen.loads:
            notices.append(f"no dead letter of run {chosen.run_id} is open")
        if chosen.n_purged:
            notices.append(
                f"{chosen.n_purged:,} of its dead letters were purged, and are left out: protheon dlq replay --task N takes one up again"
            )
        owned = {row["run_id"] for row in owners.values()} - {chosen.run_id}
        notices += [f"run {run_id} goes on with files of run {chosen.run_id}: it has taken them over" for run_id in sorted(owned)]
    return notices


def _not_dead(row: dict[str, Any]) -> str:
    was = "was replayed before" if row["n_letters"] else "was never dead"
    return f"task {row['task_id']} {was}: it is {row['state']}"


def _tasks(refused: dict[int, str], why: str) -> str:
    task_ids = [str(task_id) for task_id, other in refused.items() if other == why]
    return f"task {task_ids[0]}" if len(task_ids) == 1 else f"tasks {', '.join(task_ids[:10])}{' ..' if len(task_ids) > 10 else ''}"
