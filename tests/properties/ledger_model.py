"""What the verbs of a task must do, in plain Python, from DESIGN 4, 6, 7 and 8 and not from the SQL.

Each method says what the verb must answer and moves the model on. Locks are facts that the caller knows: it holds the transactions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from protheon_dask.model import Cost, Lease, Outcome, Seen, TaskState

COUNTED = (Cost.FAILURE, Cost.CRASH, Cost.LOSS)
"""What is charged; NOTHING is not."""


@dataclass
class Attempt:
    """One try. cost is None while it is open."""

    no: int
    token: UUID
    process: UUID
    started_at: datetime
    outcome: Outcome | None = None
    cost: Cost | None = None
    given_back: bool = False


@dataclass
class Letter:
    """A task gave up; a person gave it up for good, or it was taken up again."""

    is_replayed: bool = False
    is_purged: bool = False

    @property
    def is_open(self) -> bool:
        return not self.is_replayed and not self.is_purged


@dataclass
class Task:
    """One task. load is None where it has none; ready_at is None as long as it was ready since it was made or replayed by a join."""

    load: int | None
    state: TaskState = TaskState.READY
    attempt_no: int = 0
    ready_at: datetime | None = None
    lease_until: datetime | None = None
    spent: dict[Cost, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    attempts: list[Attempt] = field(default_factory=list)
    counted_after: int = 0  # the last attempt before the last replay: what it and those before it cost is forgotten
    letters: dict[int, Letter] = field(default_factory=dict)  # by attempt_no

    @property
    def open_attempt(self) -> Attempt:
        assert self.state is TaskState.RUNNING
        return self.attempts[-1]

    def is_of(self, lease: Lease) -> bool:
        """The fence: is this attempt still the one?"""
        return self.state is TaskState.RUNNING and self.attempt_no == lease.attempt_no

    def end(self, state: TaskState, outcome: Outcome, cost: Cost) -> None:
        attempt = self.open_attempt
        attempt.outcome, attempt.cost = outcome, cost
        self.state, self.lease_until = state, None
        if cost in self.spent:
            self.spent[cost] += 1


@dataclass
class Load:
    """One load: the run that gates its tasks, and the runs that were joined to it, the owner among them."""

    owner: int
    runs: set[int]


@dataclass
class Ledger:
    """All of it, with the time that the test moves and the rows of a table that chunks are loaded into."""

    now: datetime
    epoch: int
    tasks: dict[int, Task] = field(default_factory=dict)
    loads: dict[int, Load] = field(default_factory=dict)
    runs: dict[int, str] = field(default_factory=dict)
    rows: set[tuple[int, int]] = field(default_factory=set)  # (task, attempt_no) whose row is committed

    def _run_of(self, task: Task) -> str | None:
        return None if task.load is None else self.runs[self.loads[task.load].owner]

    def is_claimable(self, seen: Seen) -> bool:
        """Ready, the attempt_no that the dispatch saw, due, and its run is running."""
        task = self.tasks[seen.task_id]
        due = task.ready_at is None or task.ready_at <= self.now
        return task.state is TaskState.READY and task.attempt_no == seen.attempt_no and due and self._run_of(task) in (None, "running")

    def claim(self, seen: Seen, token: UUID, process: UUID, lease_s: float) -> int | None:
        """The attempt_no that is opened, or that this token holds already; None: nothing happened."""
        task = self.tasks[seen.task_id]
        if self.is_claimable(seen):
            task.attempt_no += 1
            task.state, task.lease_until = TaskState.RUNNING, self.now + timedelta(seconds=lease_s)
            task.attempts.append(Attempt(task.attempt_no, token, process, self.now))
            return task.attempt_no
        if task.state is TaskState.RUNNING and task.open_attempt.token == token:
            return task.attempt_no
        return None

    def renew(self, leases: list[Lease], locked: set[int], lease_s: float) -> dict[Lease, bool]:
        """True is renewed, False is locked; who is missing has lost it, or its run was cancelled."""
        answers = {}
        for lease in leases:
            task = self.tasks[lease.task_id]
            if task.is_of(lease) and self._run_of(task) != "cancelled":
                answers[lease] = lease.task_id not in locked
                if answers[lease]:
                    task.lease_until = self.now + timedelta(seconds=lease_s)
        return answers

    def release(self, lease: Lease, outcome: Outcome, cost: Cost, ready_in_s: float) -> bool:
        """False: LeaseLost, and nothing happened."""
        task = self.tasks[lease.task_id]
        if not task.is_of(lease):
            return False
        task.end(TaskState.READY, outcome, cost)
        task.ready_at = self.now + timedelta(seconds=ready_in_s)
        return True

    def dead_letter(self, lease: Lease, outcome: Outcome, cost: Cost) -> bool:
        task = self.tasks[lease.task_id]
        if not task.is_of(lease):
            return False
        task.end(TaskState.DEAD, outcome, cost)
        task.letters[lease.attempt_no] = Letter()
        return True

    def complete(self, lease: Lease) -> None:
        """The commit of a data transaction: the row and the end of the attempt exist together."""
        self.tasks[lease.task_id].end(TaskState.SUCCEEDED, Outcome.SUCCEEDED, Cost.NOTHING)
        self.rows.add((lease.task_id, lease.attempt_no))

    def expiring(self, epoch: int, gone: list[Seen], locked: set[int]) -> dict[Seen, bool]:
        """Attempts to be taken back -> is its process known to be gone? None while another leads; what is locked is committing."""
        if epoch != self.epoch:
            return {}
        found = {}
        for task_id, task in self.tasks.items():
            seen = Seen(task_id, task.attempt_no)
            if task.state is TaskState.RUNNING and task_id not in locked:
                assert task.lease_until is not None
                if seen in gone or task.lease_until < self.now:
                    found[seen] = seen in gone
        return found

    def stuck(self, grace_s: float) -> set[Seen]:
        """Attempts whose lease ended longer ago than the grace of a completion."""
        return {
            Seen(task_id, task.attempt_no)
            for task_id, task in self.tasks.items()
            if task.lease_until is not None and task.lease_until < self.now - timedelta(seconds=grace_s)
        }

    def replay(self, chosen: set[int], *, at: datetime | None) -> set[int]:
        """What is chosen is ready again, counters at zero, attempts kept. at None: by a join, at the database's own time."""
        for task_id in chosen:
            task = self.tasks[task_id]
            task.state, task.ready_at, task.spent, task.counted_after = TaskState.READY, at, dict.fromkeys(COUNTED, 0), task.attempt_no
            for letter in task.letters.values():
                letter.is_replayed = True
        return chosen

    def over_of_load(self, load: int) -> set[int]:
        """Dead and cancelled tasks of a load."""
        over = (TaskState.DEAD, TaskState.CANCELLED)
        return {task_id for task_id, task in self.tasks.items() if task.load == load and task.state in over}

    def dead_of(self, task_ids: set[int]) -> set[int]:
        return {task_id for task_id in task_ids if self.tasks[task_id].state is TaskState.DEAD}

    def purge(self, task_ids: set[int]) -> set[int]:
        """A person gives dead tasks up: they stay dead. Those whose letter was open."""
        found = set()
        for task_id in self.dead_of(task_ids):
            for letter in self.tasks[task_id].letters.values():
                if letter.is_open:
                    letter.is_purged = True
                    found.add(task_id)
        return found

    def give_back(self, asked: set[Seen], costs: set[Cost], epoch: int | None) -> set[Seen]:
        """What ended attempts cost is taken off their tasks, once; who died of it is ready again. Those of which it was done now."""
        given = set()
        for seen in asked if epoch in (None, self.epoch) else ():
            for attempt in self.tasks[seen.task_id].attempts:
                if attempt.no == seen.attempt_no and attempt.cost in costs and not attempt.given_back:
                    attempt.given_back = True
                    given.add(seen)
        for task_id in {seen.task_id for seen in given}:
            task = self.tasks[task_id]
            counted = [
                no for found, no in ((seen.task_id, seen.attempt_no) for seen in given) if found == task_id and no > task.counted_after
            ]
            off = [cost for no in counted if (cost := task.attempts[no - 1].cost) is not None]
            if task.state is TaskState.SUCCEEDED or not off:
                continue
            for cost in off:
                task.spent[cost] -= 1
            died_of = [no for no, letter in task.letters.items() if letter.is_open and task.attempts[no - 1].cost in off]
            if task.state is TaskState.DEAD and died_of and self._run_of(task) != "cancelled":
                task.state, task.ready_at = TaskState.READY, self._soonest(task)
                for letter in task.letters.values():
                    letter.is_replayed |= letter.is_open
            elif task.state is TaskState.READY:
                task.ready_at = self._soonest(task)
        return given

    def _soonest(self, task: Task) -> datetime | None:
        return None if task.ready_at is None else min(task.ready_at, self.now)

    def cancel_task(self, task_id: int) -> bool:
        """Of the general queue; False: it had ended."""
        task = self.tasks[task_id]
        if task.load is not None or task.state not in (TaskState.READY, TaskState.RUNNING):
            return False
        if task.state is TaskState.RUNNING:
            task.end(TaskState.CANCELLED, Outcome.CANCELLED, Cost.NOTHING)
        task.state = TaskState.CANCELLED
        return True

    def join(self, load: int, run: int) -> None:
        """The same source is submitted again: the run waits for a running owner, or goes on in the place of one that does not run."""
        self.runs[run] = "running"
        self.loads[load].runs.add(run)
        if self.runs[self.loads[load].owner] != "running":
            self.loads[load].owner = run
            self.replay(self.over_of_load(load), at=None)

    def cancel_run(self, run: int, locked: set[int]) -> set[Seen]:
        """What another live run waits for is that run's from now on; the rest is cancelled."""
        if self.runs[run] == "cancelled":
            return self.cancel(locked)
        for load in self.loads.values():
            heirs = [other for other in load.runs if other != run and self.runs[other] != "cancelled"]
            if load.owner == run and heirs:
                load.owner = min(heirs)
        self.runs[run] = "cancelled"
        return self.cancel(locked)

    def cancel(self, locked: set[int]) -> set[Seen]:
        """Cancel what is ready or running of cancelled runs, but for what is locked; the attempts that ran."""
        ran = set()
        for task_id, task in self.tasks.items():
            if self._run_of(task) != "cancelled" or task_id in locked:
                continue
            if task.state is TaskState.RUNNING:
                ran.add(Seen(task_id, task.attempt_no))
                task.end(TaskState.CANCELLED, Outcome.CANCELLED, Cost.NOTHING)
            elif task.state is TaskState.READY:
                task.state = TaskState.CANCELLED
        return ran
