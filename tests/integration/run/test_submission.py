"""Submissions on a real PostgreSQL: a run that cannot be started does not stay behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from protheon_dask.broker import wire
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.find import find
from protheon_dask.pipelines.pack import pack
from protheon_dask.run.coordinator import Coordinator
from protheon_dask.run.desk import Place, RunDesk
from protheon_dask.workspace.chunkfile import ChunkStore
from tests.fixtures.cluster import ask
from tests.integration.run.conftest import KEY, pipeline_file


@pytest.fixture
def desk(ledger_database: str, tmp_path: Path) -> RunDesk:
    """A desk whose coordinator does not run."""
    store = ChunkStore(tmp_path / "workspace", 1 << 30)
    coordinator = Coordinator(Settings(), ledger_database, "tcp://127.0.0.1:9", store, uuid4(), 1)
    return RunDesk(Settings(), ledger_database, coordinator, Place("", "", ""), ephemeral=False)


def submission(directory: Path, *names: str, again: bool = False, request_id: str = "") -> wire.Submission:
    for name in names:
        (directory / name).write_text(f"{len(name)}\n")
    packed = pack(find(pipeline_file(directory)), KEY)
    paths = tuple(str(directory / name) for name in names)
    return wire.Submission(paths=paths, pipeline=packed, again=again, request_id=request_id or str(uuid4()))


def test_a_run_whose_submission_fails_half_way_is_cancelled_with_the_reason(desk: RunDesk, ledger_database: str, tmp_path: Path) -> None:
    first = desk.submit(submission(tmp_path, "in_progress"))
    failing = submission(tmp_path, "new", "in_progress", again=True)
    with pytest.raises(ConfigError, match="is being loaded by run"):
        desk.submit(failing)

    [(state, reason)] = ask(ledger_database, "SELECT state, state_reason FROM protheon.run WHERE id <> %s", first.run_id)
    assert state == "cancelled"
    assert f"is being loaded by run {first.run_id}" in reason
    assert desk.submit(submission(tmp_path, "new", again=True)).loads[0].joined == "new"  # no queued run holds it


def test_again_says_that_rows_without_a_key_are_there_twice(desk: RunDesk, ledger_database: str, tmp_path: Path) -> None:
    first = submission(tmp_path, "one")
    asked = replace(first, again=True, request_id="again")
    told = "table public.numbers has no key: rows that are loaded again are there twice"
    assert told not in desk.submit(replace(asked, request_id="first")).notices  # nothing was there before
    ask(ledger_database, "UPDATE protheon.run SET state = 'cancelled', ended_at = now() RETURNING id")
    assert told not in desk.submit(replace(asked, request_id="empty")).notices
    ask(ledger_database, "UPDATE protheon.run SET state = 'cancelled', ended_at = now() RETURNING id")
    ask(ledger_database, "INSERT INTO public.numbers VALUES (1) RETURNING n")
    assert told in desk.submit(asked).notices


def test_a_repeated_submission_waits_for_the_one_that_is_at_work(desk: RunDesk, ledger_database: str, tmp_path: Path) -> None:
    asked = submission(tmp_path, "one", request_id="r")
    made = desk.submit(asked)
    assert desk.submit(asked).run_id == made.run_id
    ask(ledger_database, "UPDATE protheon.run SET state = 'queued' WHERE id = %s RETURNING id", made.run_id)
    with pytest.raises(ConfigError, match="is being made by another call"):
        desk.submit(asked)


def test_checksums_that_prove_nothing_are_told_before_they_are_taken(desk: RunDesk, tmp_path: Path) -> None:
    bare = submission(tmp_path, "one")
    told = "table public.numbers: its checksums can never be compared: the pipeline keeps no provenance (provenance=True)"
    assert told not in desk.submit(bare).notices
    assert told in desk.submit(replace(bare, checksum=True, request_id="summed")).notices
    lines = pack(find("jsonl", table="public.documents", paths=[]), KEY)
    asked = replace(bare, pipeline=lines, checksum=True, request_id="lines")
    assert "table public.documents: not compared: doc" in desk.submit(asked).notices
