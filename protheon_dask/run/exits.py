"""Exit codes: who must act next, as a number (README, "Exit codes")."""

from __future__ import annotations

from protheon_dask.errors import Acts, ProtheonError

DONE, INCOMPLETE, USAGE, INTERNAL, TRY_LATER, INTERRUPTED = 0, 1, 2, 70, 75, 130
NOT_ALLOWED = 77
"""Of ``protheon worker`` alone, EX_NOPERM of sysexits.h: the master does not let this host in, and starting it again changes nothing."""

_BY_ACTS = {
    Acts.CLOCK: TRY_LATER,
    Acts.DATA_OWNER: INCOMPLETE,
    Acts.OPERATOR: USAGE,
    Acts.NOBODY: TRY_LATER,
    Acts.MAINTAINER: INTERNAL,
}


def exit_code(error: ProtheonError) -> int:
    """The exit code of a process that this error ended."""
    return _BY_ACTS[error.acts]
