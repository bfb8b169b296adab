"""What the gRPC server asks of the rest of the master: plain blocking functions, called in threads."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from protheon_dask.broker import pin_wire, wire
from protheon_dask.broker.chunks import PinnedChunk
from protheon_dask.broker.cluster_wire import Enrolment, HostList, Versions
from protheon_dask.broker.peers import Peer


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """Where a chunk's stored form lies, and how long it is by its manifest."""

    path: Path
    stored_bytes: int
    generation: int


class ChunkPort(Protocol):
    """Finds chunks. Called in a thread; thread-safe."""

    def locate(self, chunk_id: int, generation: int) -> StoredChunk:
        """Raises: NotFound; ChunkOutdated: it has another generation; ChunkUnavailable: its file is being cut again."""
        ...


class PinCutting(Protocol):
    """The chunks of one pin, as they are cut. Blocking, and called in threads."""

    def next(self) -> PinnedChunk | Literal["later"] | None:
        """The next one; "later": ask again in a moment; None after the last. One call at a time.

        Raises: any ProtheonError; nothing comes after it.
        """
        ...

    def stop(self) -> None:
        """Cut no more, also in the midst of next(), which then soon returns None. Does not block."""
        ...

    def close(self) -> None:
        """As stop(), and wait for it. Always called, and last. Idempotent."""
        ...


class PinPort(Protocol):
    """Keeps chunks that no run loads. Called in threads; thread-safe."""

    def pin(self, request: pin_wire.PinRequest, peer: Peer) -> PinCutting: ...
    def renew(self, pin_id: str, ttl_s: float) -> None: ...
    def unpin(self, pin_id: str) -> None: ...
    def locate(self, pin_id: str, chunk_no: int, generation: int) -> StoredChunk:
        """Raises: NotFound: it was released, or ran out; ChunkUnavailable: its file is being cut again."""
        ...


class RunPort(Protocol):
    """Answers for runs. Plain blocking functions, called in threads; thread-safe. run_id 0 is the latest.

    Raises: any ProtheonError, which the client raises again.
    """

    def submit(self, submission: wire.Submission, peer: Peer) -> wire.Submitted: ...
    def get(self, run_id: int) -> wire.RunView: ...
    def list(self, limit: int) -> Iterable[wire.RunView]: ...
    def cancel(self, run_id: int) -> wire.RunView: ...
    def pause(self, run_id: int, reason: str) -> wire.RunView: ...
    def resume(self, resumption: wire.Resumption) -> wire.RunView: ...
    def replay(self, replay: wire.Replay) -> wire.Submitted: ...
    def undo(self, load_id: int) -> wire.Undone: ...
    def replay_dead_letters(self, choice: wire.LetterChoice) -> wire.DeadLetters: ...
    def purge_dead_letters(self, choice: wire.LetterChoice) -> wire.DeadLetters: ...
    def info(self) -> wire.MasterInfo: ...
    def report(self, wanted: wire.Report) -> Generator[str]:
        """Pages of JSON, each made when it is asked for, in a thread of its own; closed when the client wants no more."""
        ...


class TaskPort(Protocol):
    """Answers for tasks of the general queue, as RunPort does for runs."""

    def submit(self, submission: wire.TaskSubmission) -> wire.TaskView: ...
    def get(self, task_id: int) -> wire.TaskView: ...
    def cancel(self, task_id: int) -> wire.TaskView: ...
    def ended(self, task_ids: Sequence[int]) -> Iterable[wire.TaskView]:
        """Those of these tasks that have ended."""
        ...


class ClusterPort(Protocol):
    """Knows the cluster's hosts. Thread-safe."""

    def enrol(self, host: str, version: str, versions: Versions, peer: Peer) -> Enrolment:
        """What a host needs to work; secrets only for one that has shown its certificate."""
        ...

    def renew(self, request_pem: bytes, peer: Peer) -> bytes:
        """A new certificate for the caller. Raises: NotAllowed; ConfigError: the request, or there are no certificates here."""
        ...

    def hosts(self) -> HostList: ...
    def is_removed(self, host: str, serial_no: int) -> bool:
        """Tell whether nothing of the host that shows this certificate is accepted. Cheap: it is asked in the event loop, with each call.

        Raises: ConfigError: that cannot be told now.
        """
        ...
