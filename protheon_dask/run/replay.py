"""Replays: the refused lines of a run become files that Protheon writes, and those an ordinary run of a pipeline."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from protheon_dask.broker import wire
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError, SourceChanged, TransientError
from protheon_dask.ledger import replays, runs
from protheon_dask.ledger.connect import Connection
from protheon_dask.ledger.replays import LiveReplay, Original
from protheon_dask.model import Identity, Joined
from protheon_dask.pipelines.pack import PackedPipeline
from protheon_dask.policy import auto_chunk_lines
from protheon_dask.words import counted
from protheon_dask.workspace.cut import LF
from protheon_dask.workspace.source import identify
from protheon_dask.workspace.spool import LongLines, SpoolStore, SpoolWriter

LOST = "the file of refused lines that this replay was cut from is gone or changed: `protheon rejects replay` writes it anew"
"""Why a replay whose spool the workspace has lost cannot go on."""

NO_LIMIT = 1.0
"""Fraction of a replay's lines that may be refused again by default: all, for a pipeline that mends some of them is the normal case."""


class _NothingFree(Exception):  # no error: it rolls the empty run back
    """While this replay waited for its turn, another one took every line."""


@dataclass(frozen=True, slots=True)
class ReplayDesk:
    """Makes a run of what a run refused. Thread-safe.

    make_targets, create_run: of RunDesk, for a submission. readable: the path by which a source is opened, with its password.
    """

    settings: Settings
    spools: SpoolStore
    n_threads: int
    make_targets: Callable[[Connection, wire.Submission], tuple[str, ...]]
    create_run: Callable[[Connection, wire.Submission], int]
    readable: Callable[[str, Identity], str]

    def submit(self, conn: Connection, replay: wire.Replay) -> wire.Submitted:
        """Write what is still refused of a run to spools, and make a run of them; run_id 0: there is nothing to be loaded, see notices.

        Lines that wait in a replay that may go on are left to it; where nothing else is to be done, the answer is that run.
        Lines of a replay that ended without them are taken over: nothing of that one is loaded any more.

        Raises:    ConfigError: a table; NotFound: no such run; LedgerUnavailable. No run was made.
        Guarantee: all or nothing, and each line waits in one replay at most, however many are submitted at the same moment. Parts
                   of lines are not replayed: their lines are loaded, and would be once more. Memory is a line and 8 bytes a line.
        """
        run_id = runs.existing_run(conn, replay.run_id)
        found = replays.originals(conn, run_id)
        load_ids = [original.load_id for original in found]
        for load_id in load_ids:
            replays.retire_dead(conn, load_id)
        n_open, n_parts = replays.count_open(conn, load_ids)
        notices = [_of_parts(n_parts)] if n_parts else []
        waiting = replays.live(conn, load_ids)
        notices += [_of_waiting(item) for item in waiting if item.n_lines]
        if n_open == 0:
            return wire.Submitted(0, (), (f"no line of run {run_id} is still refused", *notices))
        if n_open == sum(item.n_lines for item in waiting):
            return _attached(waiting, notices)
        packed = replay.pipeline or PackedPipeline(**runs.pipeline_of(conn, run_id))
        limits = (replay.reject_limit_lines, replay.reject_limit_fraction)
        if limits == (None, None):
            limits = (None, NO_LIMIT)
        checksum = runs.keeps_checksums(conn, run_id)
        submission = wire.Submission((f"rejects of run {run_id}",), packed, 0, *limits, checksum=checksum, request_id=replay.request_id)
        notices += self.make_targets(conn, submission)
        try:
            with self.spools.held() as held, conn.transaction():
                new_run_id = self.create_run(conn, submission)
                made = []
                for original in found:
                    spool = _Spool(self, new_run_id, original)
                    held.add(spool.path)
                    if (load := spool.write(conn, packed)) is not None:
                        made.append(load)
                    notices += spool.notices
                if not made:
                    raise _NothingFree
                runs.start_run(conn, new_run_id, notices)
        except _NothingFree:
            waiting = [item for item in replays.live(conn, load_ids) if item.n_lines]
            return _attached(waiting, notices) if waiting else wire.Submitted(0, (), tuple(notices))
        return wire.Submitted(new_run_id, tuple(made), tuple(notices))


@dataclass(slots=True)
class _Spool:
    """The file of one load's refused lines, while it is written."""

    desk: ReplayDesk
    run_id: int
    original: Original
    notices: list[str] = field(default_factory=list)
    n_too_long: int = 0
    n_unread: int = 0
    why_unread: str = ""

    @property
    def path(self) -> Path:
        return self.desk.spools.path(self.run_id, self.original.load_id, self.original.path)

    def write(self, conn: Connection, packed: PackedPipeline) -> wire.JoinedLoad | None:
        """Write the file and make its load, in the caller's transaction; None: nothing of the load is to be replayed now."""
        original, settings = self.original, self.desk.settings
        replays.take_turn(conn, original.load_id)
        reject_ids = array("q")
        with SpoolWriter(self.path) as spool:
            for reject_id in self._copy(conn, spool):
                reject_ids.append(reject_id)
            if reject_ids:
                spool.close()
        self._tell_left_out()
        if not reject_ids:
            return None
        if replays.is_retired(conn, original.load_id):
            self.notices = [f"{original.path}: load {original.load_id} is retired (--again or undo): its rejects are not replayed"]
            return None
        new = runs.NewLoad(
            run_id=self.run_id,
            pipeline_name=packed.name,
            pipeline_version=packed.version,
            options=packed.options_json,
            code_hash=packed.code_hash,
            path=str(self.path),
            identity=identify(str(self.path)),
            chunk_lines=min(auto_chunk_lines(len(reject_ids), self.desk.n_threads), settings.chunk_lines),
            chunk_lines_given=False,
            max_chunk_bytes=settings.max_chunk_bytes,
            max_line_bytes=settings.max_line_bytes,
            estimated_lines=len(reject_ids),
        )
        shown_path = f"rejects of {original.path}"
        load_id = replays.begin(conn, new, original.load_id, shown_path, reject_ids)
        return wire.JoinedLoad(load_id, shown_path, Joined.NEW)

    def _copy(self, conn: Connection, spool: SpoolWriter) -> Iterator[int]:
        """Write each line that can be replayed, in the order of the source, and yield its reject."""
        source: LongLines | None = None
        try:
            for reject in replays.free(conn, self.original.load_id):
                if reject.raw_bytes > self.desk.settings.max_line_bytes:
                    self.n_too_long += 1
                elif reject.start is None:
                    spool.write(reject.raw.removesuffix(LF))  # one that was beyond max_line_bytes was kept with its own
                    spool.end_line()
                    yield reject.reject_id
                elif not self.why_unread:
                    try:
                        if source is None:
                            source = LongLines(self.desk.readable(self.original.path, self.original.identity), self.original.identity)
                        for piece in source.read(reject.start, reject.byte_offset, reject.raw, reject.raw_bytes):
                            spool.write(piece)
                    except (SourceChanged, TransientError, ConfigError) as exc:
                        self.n_unread, self.why_unread = 1, str(exc)
                        continue
                    spool.end_line()
                    yield reject.reject_id
                else:
                    self.n_unread += 1
        finally:
            if source is not None:
                source.close()

    def _tell_left_out(self) -> None:
        if self.n_too_long:
            has = "it has" if self.n_too_long == 1 else "they have"
            self.notices.append(
                f"{self.original.path}: {counted(self.n_too_long, 'line stays', 'lines stay')} refused: {has} more than max_line_bytes "
                f"({self.desk.settings.max_line_bytes:,}); raise it to replay them"
            )
        if self.n_unread:
            self.notices.append(
                f"{self.original.path}: {counted(self.n_unread, 'line stays', 'lines stay')} refused: the ledger keeps 64 KiB of each, "
                f"and the rest cannot be read: {self.why_unread}"
            )


def _of_parts(n_parts: int) -> str:
    left = counted(n_parts, "refused part of a line is left as it is", "refused parts of lines are left as they are")
    return f"{left}: the rest of each line is loaded, and a replay would load it once more"


def _of_waiting(item: LiveReplay) -> str:
    todo = {"paused": f"resume or cancel it: protheon runs resume {item.run_id}"}.get(item.state, f"protheon runs watch {item.run_id}")
    return f"{counted(item.n_lines, 'line is', 'lines are')} being replayed by run {item.run_id}, which is {item.state}: {todo}"


def _attached(waiting: list[LiveReplay], notices: list[str]) -> wire.Submitted:
    """The newest of the replays that have every line, in the place of a new one."""
    run_id = max(item.run_id for item in waiting)
    loads = tuple(wire.JoinedLoad(item.load_id, f"rejects of load {item.replay_of}", Joined.ATTACHED) for item in waiting)
    return wire.Submitted(run_id, loads, (*notices, f"nothing else is left to replay: this is run {run_id}"))
