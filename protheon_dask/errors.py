"""Every error of Protheon, split by who must act next.

::

    ProtheonError
    |-- TransientError     the clock: try again later (exit 75 where it reaches a command)
    |   |-- SourceUnavailable   a source cannot be read at the moment
    |   |-- BrokerUnavailable   the gRPC broker does not answer
    |   |   `-- BrokerBusy          it has enough to do for this client: one of its streams must end first
    |   |-- ChunkUnavailable    the chunk's file is being cut again
    |   |-- ChunkGap            a message of a chunk came out of order, or the stream ended early
    |   |-- ChunkOutdated       the stored form changed under the reader: start again at offset 0
    |   |-- ChecksumMismatch    bytes are not those of the manifest
    |   |-- LedgerUnavailable   PostgreSQL does not answer, or refused for a passing reason
    |   |-- StillRunning        a wait for a run was over before the run was; also a TimeoutError
    |   |-- TargetAltered       a table changed while a chunk was loaded into it: load the chunk anew
    |   `-- WorkerDied          the process that ran an attempt is gone
    |-- RejectedError      the data's owner: a reject or a dead letter
    |   |-- SchemaViolation     a row does not fit its table
    |   |-- SourceDamaged       an archive is truncated or corrupt from a known offset on
    |   `-- SourceChanged       a source changed while it was read, or since it was cut
    |-- ConfigError        the operator (exit 2)
    |   |-- MissingSetting      a setting or an extra is needed and absent
    |   |-- MigrationPending    the ledger's schema and this version do not fit
    |   |-- NotFound            no such run, load, file, table or pipeline
    |   |-- NotAllowed          this client may not: its host was removed, or only the master's own host may
    |   |-- OtherTransport      one end speaks TLS, the other plaintext
    |   |-- TargetRefused       a table exists and cannot take these rows
    |   `-- WorkspaceFull       pinned chunks need more room than the workspace gives them
    |-- LeaseLost          nobody: another attempt owns the task; stop and write nothing
    |-- LeadershipLost     nobody: another broker leads; stop dispatching
    |-- Reject             the data's owner: the verdict of a pipeline on one line, or on a part of it
    `-- InvariantError     the maintainer (exit 70)

Guarantee: each survives pickling: ``args`` are the constructor's arguments, the text is rendered by ``__str__``.
"""

from __future__ import annotations

from enum import Enum

ITEM = "\n  - "
"""Before each of several reasons in a message, which is then shown with one a line; other line breaks are not kept."""


class Acts(Enum):
    """Who must act next."""

    CLOCK = "clock"
    DATA_OWNER = "data owner"
    OPERATOR = "operator"
    NOBODY = "nobody"
    MAINTAINER = "maintainer"


class ProtheonError(Exception):
    """Root of all errors that Protheon raises on purpose."""

    acts: Acts = Acts.MAINTAINER


class _Message(ProtheonError):
    """An error whose one argument is its whole text: what happened, which, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class TransientError(_Message):
    """The same thing may work later; nothing is wrong with the data or the set-up."""

    acts = Acts.CLOCK


class SourceUnavailable(TransientError):
    """A source cannot be read at the moment."""


class BrokerUnavailable(TransientError):
    """The broker does not answer."""


class LedgerUnavailable(TransientError):
    """PostgreSQL does not answer, or refused for a passing reason. What was not committed is not visible."""


class BrokerBusy(BrokerUnavailable):
    """The broker has enough open for this client: the same call works when one of its others has ended."""


class TargetAltered(TransientError):
    """A table is not as it was when it was described: nothing of the chunk stands, and it is loaded anew into the table as it is."""


class WorkerDied(TransientError):
    """The process that ran an attempt is gone."""


class ChunkUnavailable(TransientError):
    """The chunk's file is not there and is being cut again; ask again in a few seconds."""


class ChunkOutdated(TransientError):
    """The chunk was stored anew since the reader began: discard what was read and start at offset 0."""


class ChunkGap(TransientError):
    """A message of a chunk stream did not start where the one before ended."""

    def __init__(self, expected_bytes: int, got_bytes: int) -> None:
        ProtheonError.__init__(self, expected_bytes, got_bytes)
        self.expected_bytes, self.got_bytes = expected_bytes, got_bytes

    def __str__(self) -> str:
        return f"chunk stream: expected offset {self.expected_bytes}, got {self.got_bytes}; what was read is discarded"


class ChecksumMismatch(TransientError):
    """Bytes differ from the manifest."""

    def __init__(self, expected_hex: str, got_hex: str) -> None:
        ProtheonError.__init__(self, expected_hex, got_hex)
        self.expected_hex, self.got_hex = expected_hex, got_hex

    def __str__(self) -> str:
        return f"checksum mismatch: the manifest says {self.expected_hex}, the bytes give {self.got_hex}"


class StillRunning(TransientError, TimeoutError):
    """A wait for a run was over before the run was: it runs on, and can be waited for again."""

    def __init__(self, run_id: int, waited_s: float) -> None:
        ProtheonError.__init__(self, run_id, waited_s)
        self.run_id, self.waited_s = run_id, waited_s

    def __str__(self) -> str:
        return f"run {self.run_id} had not ended after {self.waited_s:.3g} s; it runs on"


class RejectedError(_Message):
    """The data are at fault; trying again cannot help."""

    acts = Acts.DATA_OWNER


class SchemaViolation(RejectedError):
    """A row does not fit its table."""

    def __init__(self, message: str, sqlstate: str | None = None, table: str | None = None) -> None:
        ProtheonError.__init__(self, message, sqlstate, table)
        self.message, self.sqlstate, self.table = message, sqlstate, table


class SourceDamaged(RejectedError):
    """An archive is truncated or corrupt; byte_offset counts in the stored (compressed) file."""

    def __init__(self, message: str, byte_offset: int) -> None:
        ProtheonError.__init__(self, message, byte_offset)
        self.message, self.byte_offset = message, byte_offset


class SourceChanged(RejectedError):
    """A source changed while it was read, or since its chunks were cut."""


class ConfigError(_Message):
    """Set-up or usage is at fault: the message says which setting and what to do."""

    acts = Acts.OPERATOR


class MissingSetting(ConfigError):
    """A setting, a file or an extra is needed and absent."""


class MigrationPending(ConfigError):
    """The ledger's schema is older or newer than this version understands."""


class NotFound(ConfigError):
    """No such run, load, path, table or pipeline."""


class NotAllowed(ConfigError):
    """The cluster does not let this client do it: its host was removed, or only the master's own host may."""


class OtherTransport(ConfigError):
    """One end of a connection speaks TLS, the other plaintext: another address, or another identity, is needed."""


class TargetRefused(ConfigError):
    """A target table cannot take the pipeline's rows."""


class WorkspaceFull(ConfigError):
    """Pinned chunks need more room than the workspace gives them: the message says how much there is, and who has it."""


class LeaseLost(ProtheonError):
    """Another attempt owns the task now: write nothing, report nothing, stop."""

    acts = Acts.NOBODY

    def __init__(self, task_id: int, attempt_no: int) -> None:
        super().__init__(task_id, attempt_no)
        self.task_id, self.attempt_no = task_id, attempt_no

    def __str__(self) -> str:
        return f"task {self.task_id}: attempt {self.attempt_no} no longer holds the lease"


class LeadershipLost(ProtheonError):
    """Another broker leads this ledger: stop dispatching, sweeping and listening."""

    acts = Acts.NOBODY

    def __init__(self, epoch: int) -> None:
        super().__init__(epoch)
        self.epoch = epoch

    def __str__(self) -> str:
        return f"leadership of epoch {self.epoch} is lost: another broker leads this ledger"


class InvariantError(_Message):
    """Something that cannot happen did: a defect of Protheon."""


class Reject(ProtheonError):
    """Refuse one line, or one part of it. Raised or yielded by a pipeline; public as ``protheon.Reject``.

    part: what of the line is refused (free text, such as ``"entries[3]"``); None refuses the whole line.
    A refused part is counted apart, and its line counts as loaded.
    """

    acts = Acts.DATA_OWNER

    def __init__(self, reason: str, part: str | None = None) -> None:
        super().__init__(reason, part)
        self.reason, self.part = reason, part

    def __str__(self) -> str:
        return self.reason if self.part is None else f"{self.part}: {self.reason}"
