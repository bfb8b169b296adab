"""What the services share: plain functions called in threads, errors as statuses, and readers that must read."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NoReturn, ParamSpec, TypeAlias, TypeVar

from grpc import aio

from protheon_dask.broker import wire
from protheon_dask.broker.peers import peer_of
from protheon_dask.errors import BrokerUnavailable, ProtheonError

Context: TypeAlias = "aio.ServicerContext[Any, Any]"
P = ParamSpec("P")
T = TypeVar("T")

POOL_THREADS: Final = 8
"""Of each pool: runs, tasks, the finding of chunks, the reading of files: a slow ledger must not hold up open streams."""
SHARE: Final = POOL_THREADS // 2
"""Threads of a pool that calls of one party may have: whoever floods the broker waits behind himself."""
READER_S = 30.0
"""How long a reader of a report or of chunks may take nothing: others wait for what is held for him. Ours ask again where they were."""


class Shares:
    """What the calls of one party may have at a time; more of its own wait. Used from one event loop."""

    def __init__(self, share: int) -> None:
        self._share = share
        self._turns: dict[str, _Turns] = {}  # by party, while it has calls here

    async def take(self, party: str) -> Callable[[], None]:
        """Wait for this party's turn; what is returned gives it back."""
        turns = self._turns.setdefault(party, _Turns(asyncio.Semaphore(self._share)))
        turns.n_users += 1
        try:
            await turns.free.acquire()
        except asyncio.CancelledError:
            self._leave(party, turns)
            raise

        def give_back() -> None:
            turns.free.release()
            self._leave(party, turns)

        return give_back

    @contextlib.asynccontextmanager
    async def turn(self, party: str) -> AsyncIterator[None]:
        """This party's turn, for the time of a block."""
        give_back = await self.take(party)
        try:
            yield
        finally:
            give_back()

    def _leave(self, party: str, turns: _Turns) -> None:
        turns.n_users -= 1
        if not turns.n_users:
            del self._turns[party]


@dataclass(slots=True)
class _Turns:
    free: asyncio.Semaphore
    n_users: int = 0


class Pool:
    """Threads for the plain functions of a port. Used from one event loop.

    Guarantee: the calls of one party have at most SHARE of the threads, those that it has hung up on included.
    """

    def __init__(self, name: str) -> None:
        self.executor = ThreadPoolExecutor(POOL_THREADS, f"broker-{name}")
        self._shares = Shares(SHARE)

    async def answer(self, context: Context, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call function in a thread, in its caller's turn; its ProtheonError ends the call with that error's status.

        Anything else that it raises is a defect: grpc logs it with its traceback, and the client gets UNKNOWN.
        """
        loop, give_back = asyncio.get_running_loop(), await self._shares.take(peer_of(context).party)

        def ended(_: object) -> None:  # in the thread; a call that was cancelled may still be at work in it
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(give_back)

        work = self.executor.submit(functools.partial(function, *args, **kwargs))
        work.add_done_callback(ended)
        try:
            return await asyncio.wrap_future(work)
        except ProtheonError as error:
            await abort(context, error)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call function in a thread, for no call in particular, or for one that was let in already."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, functools.partial(function, *args, **kwargs))

    def shutdown(self) -> None:
        """Begin nothing more; what runs is not waited for."""
        self.executor.shutdown(wait=False, cancel_futures=True)


async def write(context: Context, message: object) -> None:
    """Write a message of a call that holds what others need. Raises: BrokerUnavailable: its client does not read."""
    try:
        async with asyncio.timeout(READER_S):
            await context.write(message)
    except TimeoutError as error:
        raise BrokerUnavailable(f"nothing was read here for {READER_S:g} s, and others wait: ask again") from error


async def abort(context: Context, error: ProtheonError) -> NoReturn:
    """End a call with an error's status."""
    code, details, metadata = wire.error_to_status(error)
    await context.abort(code, details, metadata)
