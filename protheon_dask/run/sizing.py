"""How many workers a machine takes, and how much memory each may have: decided from numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from protheon_dask.errors import ConfigError
from protheon_dask.run.machine import Machine
from protheon_dask.words import counted, size

MIB: Final = 1 << 20
WORKER_BYTES: Final = 400 * MIB
"""What each worker gets at least where their number is ours to choose: one takes about 200 MB, a chunk in memory up to 64 MiB more, and
Dask ends it at 95 % of its limit."""
LEAST_WORKER_BYTES: Final = 256 * MIB
"""With less a worker is ended by its nanny before its first chunk is done, again and again."""
AROUND_BYTES: Final = 300 * MIB
"""For what runs beside the workers: `protheon worker` itself, Dask's command with the nannies, their tether. Measured: 205 MB, whether
there are one or four workers."""
MASTER_BYTES: Final = 500 * MIB
"""For scheduler and broker, where they run beside the workers. Measured: 105 MB each at their start; blocks of the sources that are cut,
and what Dask keeps of its past, come to that."""
POSTGRES_BYTES: Final = 400 * MIB
"""For a PostgreSQL beside them: the embedded one takes 51 MB at rest, has 256 MiB of shared buffers at most, and a process for each
connection. Workers leave it this room by their limits; their number does not depend on it: what they take is far below WORKER_BYTES."""
OF_MACHINE, OF_LIMIT = 0.8, 0.95
"""Part of the memory that is ours: of a machine that has other things to do, and of a limit that was set for us alone."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """Workers of one thread each. warning: what a person should know of these numbers; empty: nothing."""

    n_workers: int
    memory_limit_bytes: int
    warning: str = ""


def choose(
    machine: Machine, n_workers: int | None = None, memory_limit_bytes: int | None = None, *, beside_bytes: int = AROUND_BYTES
) -> Sizing:
    """Decide. n_workers, memory_limit_bytes (of each worker): as asked for; None: choose. beside_bytes: for all else of ours.

    Raises:    ConfigError: with that limit a worker cannot work.
    Guarantee: where nothing was asked for, all workers at their limits and what runs beside them stay within the machine's memory,
               unless not even one worker has room; at least one, at most one a core.
    """
    if memory_limit_bytes is not None and memory_limit_bytes < LEAST_WORKER_BYTES:
        raise ConfigError(
            f"a worker cannot work with {size(memory_limit_bytes)}: give --memory-limit at least {size(LEAST_WORKER_BYTES)}, or auto"
        )
    ours_bytes = max(0, int(machine.memory_bytes * (OF_LIMIT if machine.is_limited else OF_MACHINE)) - beside_bytes)
    each_bytes = memory_limit_bytes or WORKER_BYTES
    n = n_workers or max(1, min(int(machine.cores), ours_bytes // each_bytes))
    limit_bytes = memory_limit_bytes or max(LEAST_WORKER_BYTES, ours_bytes // n)
    warning = ""
    if n * limit_bytes > ours_bytes:
        warning = (
            f"{counted(n, 'worker')} of {size(limit_bytes)} each may need more than the {size(ours_bytes)} that are for them here: "
            "the system may end one of them; give fewer --workers"
        )
    return Sizing(n, limit_bytes, warning)


def parse_memory(text: str) -> int:
    """Bytes of ``2GB``, ``512 MiB``, ``1.5g``: as Dask's own --memory-limit. Raises ConfigError."""
    found = _MEMORY.fullmatch(text.strip().lower())
    if found is None:
        raise ConfigError(f"--memory-limit {text!r}: give a size such as 2GB or 512MiB, or auto")
    return int(float(found["number"]) * (1024 if found["binary"] else 1000) ** " kmgt".index(found["unit"] or " "))


_MEMORY = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt]?)(?P<binary>i?)b?")
