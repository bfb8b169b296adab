"""Where an error was raised in a person's own code, and a debugger that stops there."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from protheon_dask.pipelines.find import is_own_code
from protheon_dask.run.live import shell_here


def own_frames(error: BaseException) -> TracebackType | None:
    """The error's traceback from the first frame of code that is nobody's package to the last such; None: it has none.

    Frames of libraries between them stay; what a library called below the last one is left out: there the person's code stands.
    """
    kept: list[TracebackType] = []
    n_wanted = 0
    traceback = error.__traceback__
    while traceback is not None:
        is_own = is_own_code(traceback.tb_frame.f_code.co_filename)
        if is_own or kept:
            kept.append(traceback)
        if is_own:
            n_wanted = len(kept)
        traceback = traceback.tb_next
    chained: TracebackType | None = None
    for one in reversed(kept[:n_wanted]):
        chained = TracebackType(chained, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return chained


def place_of(traceback: TracebackType) -> str:
    """File, line and function of the innermost frame."""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return f"{code.co_filename}:{traceback.tb_lineno} in {code.co_name}"


def is_interactive() -> bool:
    """Can a person answer a debugger here? In a kernel the front end says so (a notebook that nbconvert executes cannot)."""
    shell = shell_here()
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False))  # ipykernel has no other word for it
    return sys.stdin is not None and sys.stdin.isatty()


def stop_at(traceback: TracebackType) -> None:
    """Let the person look around at the innermost frame, in IPython's debugger where there is IPython, until they quit."""
    debugger: Any
    if shell_here() is not None:
        from IPython.core.debugger import Pdb as IPythonPdb

        debugger = IPythonPdb()
    else:
        from pdb import Pdb

        debugger = Pdb()
    debugger.reset()
    debugger.interaction(None, traceback)
