"""A server in a thread that runs an event loop, for a caller without one: how it begins, says where it listens, and ends."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from threading import Thread
from typing import Self

from protheon_dask.errors import InvariantError


class LoopedServer(ABC):
    """A server that listens, in a thread with an event loop of its own. Single use; a context manager."""

    def __init__(self, name: str) -> None:
        """name: of the thread."""
        self._port: int | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name=name, daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on; only after start()."""
        if self._port is None:
            raise InvariantError(f"{type(self).__name__}.port was asked for before start()")
        return self._port

    def start(self) -> int:
        """Listen, and return the port. Raises what _serve() raises; the thread has ended then."""
        self._thread.start()
        try:
            self._port = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result()
        finally:
            if self._port is None:
                self.stop()
        return self._port

    def stop(self) -> None:
        """Listen no more, close what is open, and wait for that. Safe to repeat."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    async def _serve(self) -> int:
        """Listen, in the loop, and return the port. Raises: ConfigError: the address is taken, or not this machine's."""

    @abstractmethod
    async def _end(self) -> None:
        """Listen no more, and close what is open; also where _serve() failed."""
