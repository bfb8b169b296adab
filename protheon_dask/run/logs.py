"""What our processes write to their logs: an event, then its facts."""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FactsFormatter(logging.Formatter):
    """Appends what was given as ``extra`` to the line, as key=value; a traceback comes after it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is logging's
        facts = (f" {name}={value!r}" for name, value in vars(record).items() if name not in _STANDARD)
        return super().formatMessage(record) + "".join(facts)


def log_to_stderr(name: str | None = None) -> None:
    """Write this logger's events, those of all loggers where no name is given, to stderr from INFO on. Once a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FactsFormatter(FORMAT))
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
