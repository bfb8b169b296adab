"""Peak resident memory of processes while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final, Self

import psutil

PERIOD_S: Final = 0.2
"""Five looks a second: a chunk takes seconds, and its memory rises and falls with it."""


class PeakMemory:
    """Samples the resident memory of some processes until the block ends. peak_mb: of each process that lived, in 10^6 bytes."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peak-memory", daemon=True)
        self._peak_bytes = dict.fromkeys((process.pid for process in self._processes), 0)

    @property
    def peak_mb(self) -> list[float]:
        return [peak / 1e6 for peak in self._peak_bytes.values()]

    def _run(self) -> None:
        while True:
            for process in self._processes:
                try:
                    self._peak_bytes[process.pid] = max(self._peak_bytes[process.pid], process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            if self._stop.wait(PERIOD_S):
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
