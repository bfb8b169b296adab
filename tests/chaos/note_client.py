"""A person who has notes written by tasks of the general queue and waits for all of them: ``python -m tests.chaos.note_client``.

It may be killed at any moment; the one who is started after it asks for the same, and each note is one task.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg

from protheon_dask.errors import ProtheonError
from protheon_dask.run.master import Master
from protheon_dask.run.trust.keys import read_key
from tests.chaos.client import RETRY_S, say
from tests.chaos.material import Expected, Note

HANDLER = "tests.chaos.campaign_tasks:note"


def make_table(url: str) -> None:
    """The user's table: no key and no rule, so that a note that was written twice shows."""
    with psycopg.connect(url) as conn:
        conn.execute("CREATE SCHEMA IF NOT EXISTS campaign")
        conn.execute("CREATE TABLE IF NOT EXISTS campaign.notes (no bigint NOT NULL, text text NOT NULL)")


def write_notes(master: Master, notes: Sequence[Note]) -> bool:
    """Submit them and wait for their ends; True: all succeeded. Asked again, it makes no second task."""
    tasks = [
        master.submit_task(
            HANDLER,
            {"no": note.no, "text": note.text, "fails": note.fails, "wait_s": note.wait_s},
            request_id=note.request_id,
        )
        for note in notes
    ]
    say("submitted", *(task.task_id for task in tasks))
    return all(master.wait_task(task.task_id).state == "succeeded" for task in tasks)


def main() -> int:
    address, key_file, expected_file, first_no, n = sys.argv[1:]
    numbers = range(int(first_no), int(first_no) + int(n))
    notes = [note for note in Expected.load(Path(expected_file)).notes if note.no in numbers]
    while True:
        try:
            with Master(address, read_key(key_file)) as master:
                if write_notes(master, notes):
                    return 0
        except ProtheonError as exc:
            say("refused", type(exc).__name__, exc)
        time.sleep(RETRY_S)


if __name__ == "__main__":
    sys.exit(main())
