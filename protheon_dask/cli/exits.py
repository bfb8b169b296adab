"""What a command leaves with: the exit code of the one who must act (run.exits), and one line for the person."""

from __future__ import annotations

import os
import tempfile
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
import platformdirs

from protheon_dask.errors import ITEM, ProtheonError
from protheon_dask.model import RunState
from protheon_dask.run.exits import DONE, INCOMPLETE, INTERNAL, INTERRUPTED, TRY_LATER, USAGE, exit_code

GO_ON: Final = "type the same command again to go on"


def of_state(state: RunState) -> int:
    """Exit code of a command that waited for a run. A run that still goes on (--detach) is done as far as the command is."""
    return INCOMPLETE if state in (RunState.INCOMPLETE, RunState.CANCELLED, RunState.PAUSED) else DONE


def code_of(error: BaseException) -> int:
    """Exit code for what a command raised."""
    match error:
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED
        case click.ClickException():
            return error.exit_code
        case ProtheonError():
            return exit_code(error)
        case OSError(filename=name) if name is not None:
            return USAGE
        case _:
            return INTERNAL


def message_of(error: BaseException) -> str:
    """What a person reads of an error, without its traceback: one line, and one for each of several reasons."""
    match error:
        case KeyboardInterrupt() | click.Abort():
            return f"interrupted; {GO_ON}"
        case click.ClickException():
            text = error.format_message()
        case OSError(filename=name, strerror=reason) if name is not None:
            text = f"{name}: {reason or type(error).__name__}"
        case _:
            text = str(error) or type(error).__name__
    text = ITEM.join(" ".join(part.split()) for part in text.split(ITEM))
    code = code_of(error)
    if code == INTERNAL:
        return f"{type(error).__name__}: {text}; this is a defect of Protheon"
    return f"{text}; try again later: {GO_ON}" if code == TRY_LATER else text


def keep_details(error: BaseException, now: datetime, directory: Path | None = None) -> Path | None:
    """Write a defect's traceback to a new file, for its owner alone, and return its path; None: the disk takes none.

    directory: the user's log directory where None; the temporary one, which is everybody's, where that cannot be written.
    """
    name = f"defect-{now.astimezone(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    wanted = directory or platformdirs.user_log_path("protheon", appauthor=False)
    for is_wanted in (True, False):
        with suppress(OSError):
            path = (wanted if is_wanted else Path(tempfile.gettempdir())) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(traceback.format_exception(error)))
            return path
    return None
