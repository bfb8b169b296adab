"""A run's report as a file, from the ledger alone."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from protheon_dask.errors import ConfigError
from protheon_dask.ledger import runs
from protheon_dask.ledger.connect import opened
from protheon_dask.ledger.migrate import check_current
from protheon_dask.run.story import story_of
from protheon_dask.telemetry.story import RunStory

APPLICATION = "protheon-report"


def told_story(url: str, run_id: int | None = None) -> RunStory:
    """The story of a run; None is the latest. Raises NotFound, MigrationPending, LedgerUnavailable."""
    with opened(url, application=APPLICATION) as conn:
        check_current(conn)
        return story_of(conn, run_id or runs.latest_run(conn))


def page_of(story: RunStory) -> str:
    """The story as one page of HTML, complete in itself."""
    from protheon_dask.telemetry.report import report  # Bokeh: who asks for no report does not wait for it

    return report(story)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that a report cannot have, before anything is asked: a story may take seconds. Raises ConfigError."""
    if path.is_dir():
        raise ConfigError(f"{path} is a directory: name a file in it")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is no ordinary file: a report is written beside its place, and then takes it")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} is there already: name another file, or overwrite it (--force, in Python overwrite=True)")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no directory {path.parent}")


def write_page(page: str, path: Path, *, overwrite: bool) -> None:
    """Write a report to its place.

    Raises:    ConfigError: as check_target(), or the system's refusal.
    Guarantee: afterwards the file is whole, or as it was before.
    """
    check_target(path, overwrite=overwrite)
    part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror or exc}") from exc
    finally:
        part.unlink(missing_ok=True)
