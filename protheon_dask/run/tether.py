"""Tie a command to its owner: when the owner dies, however it dies, the command ends too.

``python -m protheon_dask.run.tether [--grace S] [--signals INT,QUIT] -- CMD ARGS..`` runs CMD in a session of its own and
holds the read end of a pipe whose only write end is the owner's. End of file on it is the one sign of death that
every operating system gives, also after ``kill -9`` and on Windows; a death signal of Linux is only the second string to the bow,
for the case that somebody kills this process as well.

Imports the standard library only, and little of it: this process stands between the owner and every server that it starts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

GRACE_S = 10.0  # DESIGN, Defaults: exit grace
USAGE = "usage: python -m protheon_dask.run.tether [--grace SECONDS] [--signals NAME[,NAME..]] -- COMMAND [ARGUMENT ..]"
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Leash:
    """How to end a command: each signal in turn with grace_s after it, then the kill of its whole process group."""

    command: tuple[str, ...]
    signals: tuple[signal.Signals, ...]
    grace_s: float


class UsageError(Exception):
    """The command line of the tether is wrong; the text says how."""


def parse(argv: Sequence[str]) -> Leash:
    """Read the tether's own arguments, which end at ``--``.

    Raises: UsageError: an unknown option, a bad number or signal name, or no command.
    """
    names, grace_s, rest = "TERM", GRACE_S, list(argv)
    while rest and (option := rest.pop(0)) != "--":
        if option not in ("--grace", "--signals") or not rest:
            raise UsageError(USAGE)
        value = rest.pop(0)
        if option == "--signals":
            names = value
            continue
        try:
            grace_s = float(value)
        except ValueError as exc:
            raise UsageError(f"--grace {value!r} is not a number of seconds") from exc
    if not rest:
        raise UsageError(USAGE)
    try:
        signals = tuple(signal.Signals["SIG" + name] for name in names.split(",")) if sys.platform != "win32" else ()
    except KeyError as exc:
        raise UsageError(f"--signals {names!r}: this system has no SIG{exc.args[0][3:]}") from exc
    return Leash(tuple(rest), signals, grace_s)


def hold(leash: Leash, owner_fd: int = 0) -> int:
    """Run the command until it ends, the owner dies or SIGTERM or SIGINT comes; return the command's exit code.

    Units:      the exit code is the shell's: 128 + n for a command that died by signal n.
    Raises:     OSError: the command cannot be started.
    Guarantee:  blocks; call it from the main thread. On return neither the command nor its process group runs any more.
                A command that starts sessions of its own must end them itself, as PostgreSQL's postmaster does.
    """
    ending = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: ending.set())
    child = _start(leash)
    threading.Thread(target=_read_to_eof, args=(owner_fd, ending.set), daemon=True).start()
    threading.Thread(target=_end, args=(child, leash, ending), daemon=True).start()
    code = child.wait()
    _kill_group(child)
    return 128 - code if code < 0 else code


def _read_to_eof(fd: int, then: Callable[[], None]) -> None:
    """Throw away what comes until the other end is closed. An fd that cannot be read counts as closed."""
    try:
        while os.read(fd, 4096):
            pass
    except OSError:
        pass
    then()


def _start(leash: Leash) -> subprocess.Popen[bytes]:
    if sys.platform == "win32":
        return subprocess.Popen(leash.command, stdin=subprocess.DEVNULL, creationflags=subprocess.CREATE_NEW_PROCESS_GROUP)
    # No thread runs yet, so that preexec_fn is safe; the death signal is tied to this, the main thread.
    die = _death_signal(leash.signals[0]) if sys.platform == "linux" else None
    return subprocess.Popen(leash.command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die)


def _death_signal(signum: signal.Signals) -> Callable[[], None]:
    """Ask Linux to send signum to the child when the tether itself is killed; no other system has the like."""
    import ctypes  # 5 ms; only where it is of use

    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, int(signum))


def _end(child: subprocess.Popen[bytes], leash: Leash, ending: threading.Event) -> None:
    ending.wait()
    if sys.platform == "win32":
        child.send_signal(signal.CTRL_BREAK_EVENT)  # what PostgreSQL on Windows takes for a fast shutdown
        _wait(child, leash.grace_s)
    for signum in leash.signals:
        child.send_signal(signum)
        if _wait(child, leash.grace_s):
            return
    _kill_group(child)


def _wait(child: subprocess.Popen[bytes], timeout_s: float) -> bool:
    try:
        child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the child's group. Its number is still taken as long as a member lives."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(child.pid)], capture_output=True, check=False)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # empty; macOS answers EPERM for a group of zombies
        os.killpg(child.pid, signal.SIGKILL)


def main(argv: Sequence[str]) -> int:
    """Run as a command: exit code of the command, 2 for wrong usage, 127 where the command cannot be started."""
    try:
        return hold(parse(argv))
    except UsageError as exc:
        print(exc, file=sys.stderr)
        return 2
    except OSError as exc:
        print(f"tether: {exc}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
