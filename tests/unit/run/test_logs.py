"""A line of a log tells the facts of its event."""

from __future__ import annotations

import logging

import pytest

from protheon_dask.run.logs import FORMAT, FactsFormatter, log_to_stderr


def line_of(message: str, *args: object, **extra: object) -> str:
    record = logging.getLogger("protheon_dask.test").makeRecord(
        "protheon_dask.test", logging.INFO, "f.py", 1, message, args, None, extra=extra
    )
    return FactsFormatter(FORMAT).format(record)


def test_the_facts_follow_the_event() -> None:
    assert line_of("task.expire", task_id=7, reason="its lease\nran out").endswith(
        "INFO protheon_dask.test task.expire task_id=7 reason='its lease\\nran out'"
    )


def test_an_event_without_facts_stands_alone() -> None:
    assert line_of("load of %s", "x").endswith("INFO protheon_dask.test load of x")


def test_a_traceback_comes_after_the_facts() -> None:
    record = logging.makeLogRecord({"msg": "dispatch.raised", "task_id": 3, "exc_text": "Traceback: it broke"})
    assert FactsFormatter(FORMAT).format(record).splitlines()[1:] == ["Traceback: it broke"]
    assert "dispatch.raised task_id=3" in FactsFormatter(FORMAT).format(record)


def test_a_named_logger_writes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    name = "protheon_dask_test_of_logs"
    logger = logging.getLogger(name)
    try:
        log_to_stderr(name)
        logger.getChild("part").info("ledger.back", extra={"away_s": 2.5})
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
    assert "ledger.back away_s=2.5" in capsys.readouterr().err
