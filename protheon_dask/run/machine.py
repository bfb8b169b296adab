"""What this process may use of its machine: cores by affinity and quota, memory by the limits of its control groups."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import psutil

CGROUPS: Final = PurePosixPath("/sys/fs/cgroup")
OWN_CGROUPS: Final = "/proc/self/cgroup"
NO_LIMIT_BYTES: Final = 1 << 60
"""Version 1 of control groups has a number near 2^63 where there is no limit."""

Read = Callable[[str], str | None]
"""A file's text; None: it is not there, or not ours to read."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What may be used. cores: may be part of one. is_limited: the memory is a limit set for us, not all that the machine has."""

    cores: float
    memory_bytes: int
    is_limited: bool = False

    @property
    def whole_cores(self) -> int:
        """At least one."""
        return max(1, int(self.cores))


def this_machine() -> Machine:
    """What this process may use now."""
    cores = float(len(psutil.Process().cpu_affinity())) if hasattr(psutil.Process, "cpu_affinity") else float(os.cpu_count() or 1)
    quota, limit_bytes = cgroup_limits(_read)
    total_bytes = psutil.virtual_memory().total
    is_limited = limit_bytes is not None and limit_bytes < total_bytes
    return Machine(min(cores, quota or cores), limit_bytes if is_limited and limit_bytes is not None else total_bytes, is_limited)


def cgroup_limits(read: Read) -> tuple[float | None, int | None]:
    """Cores and bytes of memory that the control groups of this process leave it; None: no limit.

    A limit holds for all below it, so the least of a group and of those above it counts. In a container the path is often the host's:
    then only the topmost group, the container's own, is there to be read.
    """
    cores: list[float] = []
    memory_bytes: list[int] = []
    for line in (read(OWN_CGROUPS) or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            for directory in _upwards(CGROUPS, path):
                cores += _quota_of(_words(read(f"{directory}/cpu.max")))
                memory_bytes += _whole(read(f"{directory}/memory.max"))
        if "cpu" in names.split(","):
            for directory in _upwards(CGROUPS / "cpu", path):
                cores += _quota_of([*_words(read(f"{directory}/cpu.cfs_quota_us")), *_words(read(f"{directory}/cpu.cfs_period_us"))])
        if "memory" in names.split(","):
            for directory in _upwards(CGROUPS / "memory", path):
                memory_bytes += _whole(read(f"{directory}/memory.limit_in_bytes"))
    return min(cores, default=None), min((n for n in memory_bytes if n < NO_LIMIT_BYTES), default=None)


def _upwards(root: PurePosixPath, path: str) -> Iterator[PurePosixPath]:
    """The group's directory and those above it, up to the root of the hierarchy."""
    here = root / path.lstrip("/")
    yield here
    for above in here.parents:
        if above.is_relative_to(root):
            yield above


def _quota_of(words: Iterable[str]) -> list[float]:
    """Cores of a quota and its period in microseconds; none for ``max`` or -1."""
    match list(words):
        case [quota, period] if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
            return [int(quota) / int(period)]
        case _:
            return []


def _whole(text: str | None) -> list[int]:
    return [int(word) for word in _words(text)[:1] if word.isdecimal()]


def _words(text: str | None) -> list[str]:
    return (text or "").split()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return None
