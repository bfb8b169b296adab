"""Lives of people's tasks on a scheduler whose ``allowed-failures`` is 0, as ours is: chunks of runs have none, the ledger retries them.

Dask fails a task with KilledWorker as soon as the workers that were lost in its hands exceed that setting, which holds for all tasks
alike. So a task of anybody's but the coordinator's begins below zero. A scheduler without this rule fails people's tasks at the first
loss: a computation is repeated then, but never a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dask.typing import Key
    from distributed import Scheduler

COORDINATOR: Final = "protheon-coordinator"
"""The name of the coordinator's client, by which the scheduler knows its tasks."""
LIVES: Final = 3
"""Lost workers that a task survives: Dask's own default of allowed-failures."""


def give_lives(scheduler: Scheduler, client_id: str, keys: Iterable[Key]) -> None:
    """Let the tasks of a graph that was just taken survive lost workers, unless the coordinator sent it. Of the scheduler's event loop.

    client_id: Dask's, which holds the client's name.
    Guarantee: O(tasks), before any of them is given to a worker. A task that a later graph names again keeps what it has lost.
    """
    if COORDINATOR in client_id:
        return
    for key in keys:
        task = scheduler.tasks.get(key)
        if task is not None and task.suspicious == 0 and task.state == "released":
            task.suspicious = -LIVES
