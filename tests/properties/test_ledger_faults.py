"""Faults put into the verbs on purpose: each has a story in which the machine that drives the verbs against the model sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import psycopg
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from protheon_dask.ledger import rows, transaction, verbs
from protheon_dask.ledger.statements import statement
from protheon_dask.model import Cost, Outcome
from tests.fixtures.postgres import fresh_database
from tests.properties.ledger_machine import LEASE_S, LedgerMachine, Stage

Step = Callable[[LedgerMachine], None]

GONE = "OR (task.id, task.attempt_no) IN (SELECT gone.task_id, gone.attempt_no FROM gone))"
FENCE = "AND state = 'running' AND attempt_no = %(attempt_no)s\n"
NO_FENCE = "AND state = 'running'\n"
ITS_ATTEMPT = " AND attempt.attempt_no = %(attempt_no)s AND attempt.ended_at IS NULL"
FAILED, LOST, NOTHING = (Outcome.FAILED, Cost.FAILURE), (Outcome.EXPIRED, Cost.LOSS), (Outcome.RELEASED, Cost.NOTHING)


def claims(behind: int = 0) -> Step:
    return lambda machine: machine.a_worker_claims(pick=0, who=0, behind=behind)


def ends(ending: tuple[Outcome, Cost] = FAILED, *, lease: int = 0, ready_in_s: float = 0.0, gives_up: bool = False) -> Step:
    """lease: 0 is the newest one, 1 the one before."""
    return lambda machine: machine.an_attempt_ends_without_effect(
        pick=lease, who=1, ending=ending, ready_in_s=ready_in_s, gives_up=gives_up
    )


def renews(lease: int) -> Step:
    return lambda machine: machine.a_process_renews(picks=[lease], who=2)


def begins(lease: int = 0) -> Step:
    return lambda machine: machine.a_data_transaction_begins(pick=lease)


def completes(machine: LedgerMachine) -> None:
    machine.a_data_transaction_completes(pick=0)


def is_over(*, commits: bool) -> Step:
    return lambda machine: machine.a_data_transaction_ends(pick=0, commits=commits, is_answered=True)


def expires(*gone: int) -> Step:
    """By the first broker. gone: 0 is the task's present attempt, 1 the one before."""
    return lambda machine: machine.a_broker_expires(
        pick=0, gone=[(0, before) for before in gone], ending=LOST, gives_up=False, commits=True
    )


def gives_back(lease: int) -> Step:
    return lambda machine: machine.what_attempts_cost_is_given_back(picks={lease}, broker=None, costs={Cost.LOSS})


def pauses(machine: LedgerMachine) -> None:
    machine.a_run_is_paused(pick=0)


def cancels(run: int = 0) -> Step:
    return lambda machine: machine.a_run_is_cancelled(pick=run)


def replays(machine: LedgerMachine) -> None:
    machine.a_load_is_replayed()


def time_passes(machine: LedgerMachine) -> None:
    machine.time_passes(seconds=LEASE_S + 1)


def another_leads(machine: LedgerMachine) -> None:
    machine.another_broker_takes_the_lead()


def is_enqueued(machine: LedgerMachine) -> None:
    machine.a_chunk_is_enqueued(pick=0, chunk_no=3)


def asks_again(machine: LedgerMachine) -> None:
    machine.a_worker_asks_again_after_a_lost_reply(pick=0, who=1)


def is_swept(machine: LedgerMachine) -> None:
    machine.cancelled_runs_are_swept()


def is_submitted_again(machine: LedgerMachine) -> None:
    machine.the_same_file_is_submitted_again()


COMMITTING = (claims(), begins(), completes)
FAULTS: dict[str, tuple[str, dict[str, str], tuple[Step, ...]]] = {
    "a dispatch that saw an old attempt is served": (
        "claim", {"AND task.attempt_no = %(attempt_no)s": ""}, (claims(), ends(), claims(behind=1)),
    ),
    "a running task is claimed": (
        "claim", {"AND task.state = 'ready'": "AND task.state IN ('ready', 'running')"}, (claims(), claims()),
    ),
    "a pause after a failure is not waited for": (
        "claim", {"AND task.ready_at <= coalesce(%(now)s, now())": ""}, (claims(), ends(ready_in_s=45.0), claims()),
    ),
    "a paused run is served": ("claim", {"AND run.state = 'running'": ""}, (pauses, claims())),
    "a lost reply of a claim is not said again": (
        "claim", {"WHERE attempt.token": "WHERE false AND attempt.token"}, (claims(), asks_again),
    ),
    "another's token gets the attempt": (
        "claim", {"WHERE attempt.token = %(token)s": "WHERE attempt.task_id = %(task_id)s"}, (claims(), claims()),
    ),
    "a stale attempt completes its successor's task": (
        "complete", {FENCE: NO_FENCE, ITS_ATTEMPT: " AND attempt.attempt_no = %(attempt_no)s"},
        (claims(), begins(), expires(0), claims(), completes),
    ),
    "a stale attempt gives back its successor's task": ("release", {FENCE: NO_FENCE}, (claims(), ends(), claims(), ends(lease=1))),
    "an outage is charged": ("release", {"(%(cost)s = 'crash')": "(%(cost)s IN ('crash', 'nothing'))"}, (claims(), ends(NOTHING))),
    "a stale attempt gives up its successor's task": (
        "dead_letter", {FENCE: NO_FENCE}, (claims(), ends(), claims(), ends(lease=1, gives_up=True)),
    ),
    "a stale attempt renews its successor's lease": (
        "renew", {"AND task.attempt_no = asked.attempt_no AND": "AND"}, (claims(), ends(), claims(), time_passes, renews(1)),
    ),
    "an attempt of a cancelled run is renewed": (
        "renew", {"run.state IS DISTINCT FROM 'cancelled'": "true"}, (*COMMITTING, cancels(), is_over(commits=False), renews(0)),
    ),
    "a row that is locked passes for renewed": (
        "renew", {"renewed.id IS NOT NULL AS renewed": "true AS renewed"}, (*COMMITTING, renews(0)),
    ),
    "a broker that does not lead expires": (
        "expire", {"WHERE epoch = %(epoch)s": "WHERE epoch >= %(epoch)s"}, (claims(), another_leads, time_passes, expires()),
    ),
    "a lease that lives is taken": (
        "expire", {"task.lease_until_at <": "task.lease_until_at - interval '1 minute' <="}, (claims(), expires()),
    ),
    "who is known to be gone keeps its lease": ("expire", {GONE: ")"}, (claims(), expires(0))),
    "the successor of who is gone is taken": (
        "expire", {GONE: "OR task.id IN (SELECT gone.task_id FROM gone))"}, (claims(), ends(), claims(), expires(1)),
    ),
    "an expiry waits for a commit": ("expire", {"OF task SKIP LOCKED": "OF task"}, (*COMMITTING, expires(0))),
    "a replay takes what has succeeded": (
        "replay", {"'cancelled')": "'cancelled', 'succeeded')"}, (*COMMITTING, is_over(commits=True), replays),
    ),
    "a replayed task keeps its count": ("replay", {"losses = 0, ": ""}, (claims(), ends(LOST, gives_up=True), replays)),
    "what was forgotten is given back": (
        "give_back", {"WHERE given.counts": ""},
        (claims(), ends(LOST, gives_up=True), replays, claims(), ends(LOST), gives_back(1)),
    ),
    "a loss is given back twice": ("give_back", {"AND NOT attempt.given_back": ""}, (claims(), ends(LOST), gives_back(0), gives_back(0))),
    "a paused run is cancelled": ("cancel", {"run.state = 'cancelled'": "run.state IN ('cancelled', 'paused')"}, (pauses, is_swept)),
    "a cancellation waits for a commit": ("cancel", {"FOR NO KEY UPDATE OF task SKIP LOCKED": ""}, (*COMMITTING, cancels())),
    "a broker that does not lead enqueues": (
        "enqueue", {"WHERE epoch = %(epoch)s": "WHERE epoch >= %(epoch)s"}, (another_leads, is_enqueued),
    ),
    "a stale attempt begins": ("fence", {"AND attempt_no = %(attempt_no)s": ""}, (claims(), ends(), claims(), begins(1))),
    "what another run waits for is cancelled": (
        "hand_over_loads", {"waiting.ended_at IS NULL": "waiting.ended_at IS NOT NULL"}, (is_submitted_again, cancels(run=1)),
    ),
}  # fmt: skip
SEEN = (AssertionError, psycopg.Error)
NO_ADVISORY_LOCK = (claims(), begins(), expires(0), claims(), begins())


@pytest.fixture(scope="module")
def stage(postgres_url: str, ledger_template: str) -> Iterator[Stage]:
    with fresh_database(postgres_url, ledger_template) as url:
        made = Stage(url)
        yield made
        made.close()


def put_in(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    name, changes, _ = FAULTS[fault]
    faulty = statement(name)
    for right, wrong in changes.items():
        assert right.encode() in faulty, f"{name}.sql reads otherwise now: put this fault into it anew"
        faulty = faulty.replace(right.encode(), wrong.encode())
    for module in (verbs, rows, transaction):
        monkeypatch.setattr(module, "statement", lambda asked: faulty if asked == name else statement(asked))


def tell(stage: Stage, story: tuple[Step, ...]) -> None:
    """Do these steps, with all that the machine looks at after each."""
    machine = LedgerMachine(stage)
    try:
        machine.begin_with_one_run(n_chunks=1)
        for step in story:
            step(machine)
            machine.look()
    finally:
        machine.teardown()


def is_seen(action: Callable[[], object]) -> None:
    """A statement that PostgreSQL does not even take would be seen by anything."""
    with pytest.raises(SEEN) as seen:
        action()
    assert not isinstance(seen.value, psycopg.ProgrammingError), seen.value


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_verb_is_seen(stage: Stage, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    tell(stage, FAULTS[fault][-1])
    put_in(monkeypatch, fault)
    is_seen(lambda: tell(stage, FAULTS[fault][-1]))


def test_data_transactions_without_their_advisory_lock_are_seen(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(stage, NO_ADVISORY_LOCK)
    numbers = count(1)
    monkeypatch.setattr(verbs, "advisory_key", lambda task_id: next(numbers))
    is_seen(lambda: tell(stage, NO_ADVISORY_LOCK))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "fault",
    ["a dispatch that saw an old attempt is served", "a pause after a failure is not waited for", "another's token gets the attempt"],
)
def test_a_fault_is_found_by_trying(stage: Stage, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    put_in(monkeypatch, fault)
    search = settings(max_examples=300, stateful_step_count=40, phases=[Phase.generate], derandomize=True, database=None)
    is_seen(lambda: run_state_machine_as_test(lambda: LedgerMachine(stage), settings=search))  # type: ignore[arg-type]  # any maker will do
