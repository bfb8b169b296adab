-- The ledger: what Protheon knows, in one schema beside the user's tables. Forward only; 0002 and later change it.
-- Words: DESIGN "The ledger". Times are the database's. Every name in Protheon's SQL is schema-qualified.

CREATE SCHEMA protheon;

-- Which numbered migrations have run.
CREATE TABLE protheon.migration (
    version     integer PRIMARY KEY,                      -- the number in the file's name
    name        text NOT NULL,                            -- the rest of the file's name
    applied_at  timestamptz NOT NULL DEFAULT now()
);

-- One row: who leads. The epoch fences every write of a coordinator; workers' verbs do not look at it.
CREATE TABLE protheon.leadership (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    ledger_id   uuid NOT NULL DEFAULT gen_random_uuid(),  -- names this ledger without saying where it is
    epoch       bigint NOT NULL DEFAULT 0,                -- raised by each broker that takes the lead
    broker_uuid uuid,                                     -- the broker that took it last
    taken_at    timestamptz
);
INSERT INTO protheon.leadership DEFAULT VALUES;

-- What a person asked for. Its id is the small integer that people type.
CREATE TABLE protheon.run (
    id                    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state                 text NOT NULL DEFAULT 'queued'
                          CHECK (state IN ('queued', 'running', 'paused', 'succeeded', 'incomplete', 'cancelled')),
    state_reason          text,                           -- why it is paused, incomplete or cancelled, for people
    paths                 text[] NOT NULL,                -- as given
    pipeline_name         text NOT NULL,
    pipeline_version      text NOT NULL,
    chunk_lines           integer CHECK (chunk_lines > 0),          -- NULL: chosen for each source
    reject_limit_lines    bigint CHECK (reject_limit_lines >= 0),   -- at most one of the two limits
    reject_limit_fraction double precision CHECK (reject_limit_fraction BETWEEN 0 AND 1),
    request_id            text UNIQUE,                    -- names the submission, so that a repeated one finds this run
    ephemeral             boolean NOT NULL,               -- its cluster lives as long as one command: interrupted when that dies
    notices               text[] NOT NULL DEFAULT '{}',   -- what the person was told at submit
    wire_bytes            bigint NOT NULL DEFAULT 0,      -- chunk bytes sent for this run, refetches included; written by the coordinator
    submitted_at          timestamptz NOT NULL DEFAULT now(),
    ended_at              timestamptz,
    CHECK ((ended_at IS NOT NULL) = (state IN ('succeeded', 'incomplete', 'cancelled'))),
    CHECK (reject_limit_lines IS NULL OR reject_limit_fraction IS NULL)
);
CREATE INDEX run_open ON protheon.run (id) WHERE ended_at IS NULL;

-- The code that turns a run's lines into rows, as the workers find it.
CREATE TABLE protheon.pipeline (
    run_id      bigint PRIMARY KEY REFERENCES protheon.run,
    name        text NOT NULL,
    version     text NOT NULL,
    reference   text NOT NULL,                            -- built-in name or module:name; empty where object holds it
    object      bytea NOT NULL CHECK (octet_length(object) <= 1048576),
    signature   bytea NOT NULL,                           -- HMAC-SHA256 by the cluster's key; workers check it before they unpickle
    code_hash   bytea NOT NULL,                           -- a change of it without a new version is a warning
    tables      text NOT NULL,                            -- JSON: pipelines.table.Table, in order
    versions    text NOT NULL,                            -- JSON: what it was pickled with
    options     text NOT NULL                             -- JSON, canonical: the options that change its rows
);

-- A source by what it holds, wherever it lies.
CREATE TABLE protheon.source (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    size_bytes  bigint NOT NULL CHECK (size_bytes >= 0),  -- as stored (compressed)
    digest      bytea NOT NULL CHECK (octet_length(digest) = 16),   -- XXH3-128, of samples beyond 64 MiB
    UNIQUE (size_bytes, digest)
);

-- One source through one pipeline, once.
CREATE TABLE protheon.load (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline_name    text NOT NULL,
    pipeline_version text NOT NULL,
    options          text NOT NULL,                       -- canonical JSON, as in pipeline
    source_id        bigint NOT NULL REFERENCES protheon.source,
    owner_run_id     bigint NOT NULL REFERENCES protheon.run,       -- the run whose state gates its tasks; moves on resuming
    path             text NOT NULL,                       -- where the owner found the source
    code_hash        bytea NOT NULL,                      -- of the owner's pipeline
    chunk_lines      integer NOT NULL CHECK (chunk_lines > 0),      -- geometry, fixed by the first split
    max_chunk_bytes  bigint NOT NULL CHECK (max_chunk_bytes > 0),
    max_line_bytes   bigint NOT NULL CHECK (max_line_bytes > 0),
    estimated_lines  bigint NOT NULL,                     -- from a sample, for the time that is left; the manifests are the truth
    split_state      text NOT NULL DEFAULT 'pending'
                     CHECK (split_state IN ('pending', 'splitting', 'complete', 'damaged', 'changed', 'failed')),
    split_message    text,                                -- of damaged, changed, failed
    damaged_at_bytes bigint,                              -- in the stored source
    n_chunks         integer CHECK (n_chunks >= 0),       -- NULL until the last chunk's transaction: nothing is complete without it
    created_at       timestamptz NOT NULL DEFAULT now(),
    finished_at      timestamptz,                         -- every chunk succeeded and the source was whole: later runs skip it
    retired_at       timestamptz,                         -- --again, --replace or undo: no part of the identity any more
    CHECK ((n_chunks IS NOT NULL) = (split_state IN ('complete', 'damaged'))),
    CHECK (finished_at IS NULL OR split_state = 'complete')
);
CREATE UNIQUE INDEX load_identity ON protheon.load (source_id, pipeline_name, pipeline_version, options) WHERE retired_at IS NULL;
CREATE INDEX load_owner ON protheon.load (owner_run_id);

-- Runs and loads are many to many.
CREATE TABLE protheon.run_load (
    run_id   bigint NOT NULL REFERENCES protheon.run,
    load_id  bigint NOT NULL REFERENCES protheon.load,
    path     text NOT NULL,                               -- as this run found it; one source may have two
    joined   text NOT NULL CHECK (joined IN ('new', 'resumed', 'attached', 'skipped')),
    PRIMARY KEY (run_id, load_id, path)
);
CREATE INDEX run_load_load ON protheon.run_load (load_id);

-- The queue. A chunk is a task with the handler 'ingest'.
CREATE TABLE protheon.task (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    handler        text NOT NULL,
    load_id        bigint REFERENCES protheon.load,       -- NULL: a task without a run, always allowed
    state          text NOT NULL DEFAULT 'ready'          -- ready -> running (claim), cancelled (cancel)
                   CHECK (state IN ('ready', 'running', 'succeeded', 'dead', 'cancelled')),
                                                          -- running -> succeeded (complete), ready (release, expire), dead (dead_letter), cancelled
                                                          -- dead, cancelled -> ready (replay)
    attempt_no     integer NOT NULL DEFAULT 0 CHECK (attempt_no >= 0),  -- the fencing token, and nothing else; 0: never claimed
    failures       smallint NOT NULL DEFAULT 0,           -- endings by kind; the caps are policy's
    crashes        smallint NOT NULL DEFAULT 0,
    losses         smallint NOT NULL DEFAULT 0,
    priority       smallint NOT NULL DEFAULT 0,           -- higher goes first
    ready_at       timestamptz NOT NULL DEFAULT now(),    -- not to be claimed before
    lease_until_at timestamptz,                           -- of the open attempt; not indexed: renewals stay HOT
    payload        jsonb,                                 -- of other handlers than 'ingest'
    created_at     timestamptz NOT NULL DEFAULT now(),
    CHECK ((state = 'running') = (lease_until_at IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);
CREATE INDEX task_ready ON protheon.task ((attempt_no > 0) DESC, priority DESC, id) WHERE state = 'ready';
CREATE INDEX task_running ON protheon.task (id) WHERE state = 'running';
CREATE INDEX task_load ON protheon.task (load_id, state);

-- The manifest of a chunk: what was cut. Known by (load, first line), never by content, path or host.
CREATE TABLE protheon.chunk (
    task_id               bigint PRIMARY KEY REFERENCES protheon.task,
    load_id               bigint NOT NULL REFERENCES protheon.load,
    chunk_no              integer NOT NULL CHECK (chunk_no >= 1),
    first_line            bigint NOT NULL CHECK (first_line >= 1),
    n_lines               integer NOT NULL CHECK (n_lines >= 1),
    byte_offset           bigint NOT NULL CHECK (byte_offset >= 0),     -- in the decompressed source, as raw_bytes
    raw_bytes             bigint NOT NULL CHECK (raw_bytes >= 0),
    raw_xxh3              bytea NOT NULL CHECK (octet_length(raw_xxh3) IN (0, 16)),
    stored_bytes          bigint NOT NULL CHECK (stored_bytes >= 0),    -- the file in the workspace; 0: an oversized line, no file
    stored_xxh3           bytea NOT NULL CHECK (octet_length(stored_xxh3) IN (0, 16)),
    generation            integer NOT NULL CHECK (generation >= 1),     -- of the stored form; a re-cut raises it
    restart_stored_offset bigint NOT NULL,                -- where decompression can start anew, in the stored source
    restart_raw_offset    bigint NOT NULL,                -- the same place in the decompressed source
    restart_line          bigint NOT NULL,                -- the line in which it lies
    oversized             boolean NOT NULL,
    UNIQUE (load_id, first_line),
    UNIQUE (load_id, chunk_no)
);

-- One try at a task. Append-only but for its ending. numbers of lines stay 0 unless it succeeded.
CREATE TABLE protheon.attempt (
    task_id        bigint NOT NULL REFERENCES protheon.task,
    attempt_no     integer NOT NULL CHECK (attempt_no >= 1),
    token          uuid NOT NULL UNIQUE,                  -- the worker's own: asking again after a lost reply finds the attempt
    run_id         bigint REFERENCES protheon.run,        -- the owner when it was claimed
    process_uuid   uuid NOT NULL,                         -- new at each boot of a worker process
    worker         text NOT NULL,                         -- its name with Dask
    host           text NOT NULL,
    started_at     timestamptz NOT NULL,
    ended_at       timestamptz,
    outcome        text CHECK (outcome IN ('succeeded', 'failed', 'released', 'crashed', 'expired', 'cancelled')),
    cost           text CHECK (cost IN ('nothing', 'failure', 'crash', 'loss')),
    error_class    text,
    message        text,
    traceback      text,
    sqlstate       text,
    lines          integer,                               -- of the manifest; NULL for other handlers
    loaded         integer NOT NULL DEFAULT 0,
    filtered       integer NOT NULL DEFAULT 0,
    rejected       integer NOT NULL DEFAULT 0,
    blank          integer NOT NULL DEFAULT 0,
    rejected_parts integer NOT NULL DEFAULT 0,            -- beside the identity: their lines count as loaded
    raw_bytes      bigint NOT NULL DEFAULT 0,
    wire_bytes     bigint NOT NULL DEFAULT 0,
    wait_s         real NOT NULL DEFAULT 0,               -- seconds by stage, model.STAGES
    fetch_s        real NOT NULL DEFAULT 0,
    decompress_s   real NOT NULL DEFAULT 0,
    transform_s    real NOT NULL DEFAULT 0,
    copy_s         real NOT NULL DEFAULT 0,
    merge_s        real NOT NULL DEFAULT 0,
    ledger_s       real NOT NULL DEFAULT 0,
    commit_s       real NOT NULL DEFAULT 0,               -- known only after it: written, with ledger_s, at the worker's next claim
    PRIMARY KEY (task_id, attempt_no),
    CHECK ((ended_at IS NULL) = (outcome IS NULL)),
    CHECK (outcome = 'succeeded' OR (loaded, filtered, rejected, blank) = (0, 0, 0, 0)),
    CHECK (least(loaded, filtered, rejected, blank, rejected_parts) >= 0),
    CONSTRAINT lines_are_accounted_for
        CHECK (outcome IS DISTINCT FROM 'succeeded' OR lines IS NULL OR lines = loaded + filtered + rejected + blank)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX attempt_open ON protheon.attempt (task_id) WHERE ended_at IS NULL;
CREATE INDEX attempt_run ON protheon.attempt (run_id, attempt_no);

-- Rows of one attempt, by table.
CREATE TABLE protheon.table_count (
    task_id     bigint NOT NULL,
    attempt_no  integer NOT NULL,
    table_name  text NOT NULL,
    offered     bigint NOT NULL,
    inserted    bigint NOT NULL,
    updated     bigint NOT NULL,
    ignored     bigint NOT NULL,
    PRIMARY KEY (task_id, attempt_no, table_name),
    FOREIGN KEY (task_id, attempt_no) REFERENCES protheon.attempt,
    CHECK (least(offered, inserted, updated, ignored) >= 0),
    CONSTRAINT rows_are_accounted_for CHECK (offered = inserted + updated + ignored)
);

-- Tasks that gave up, and when they were taken up again.
CREATE TABLE protheon.dead_letter (
    task_id     bigint NOT NULL,
    attempt_no  integer NOT NULL,
    reason      text NOT NULL,                            -- the attempt has the error itself
    died_at     timestamptz NOT NULL,
    replayed_at timestamptz,
    PRIMARY KEY (task_id, attempt_no),
    FOREIGN KEY (task_id, attempt_no) REFERENCES protheon.attempt
);
CREATE INDEX dead_letter_open ON protheon.dead_letter (task_id) WHERE replayed_at IS NULL;

-- Lines, and parts of lines, that were refused; written in the chunk's transaction.
CREATE TABLE protheon.reject (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    load_id     bigint NOT NULL REFERENCES protheon.load,
    task_id     bigint NOT NULL REFERENCES protheon.chunk,
    attempt_no  integer NOT NULL,                         -- that refused it; of a line beyond max_line_bytes, which is born with its reject, 1
    line        bigint NOT NULL,                          -- from 1 in the decompressed source
    byte_offset bigint NOT NULL,                          -- of its first byte there
    part        text,                                     -- NULL: the whole line
    reason      text NOT NULL,
    sqlstate    text,
    table_name  text,
    raw         bytea NOT NULL CHECK (octet_length(raw) <= 65536),
    raw_bytes   bigint NOT NULL,                          -- of the whole line; beyond 64 KiB read the rest at byte_offset
    replayed_by bigint REFERENCES protheon.run
);
CREATE INDEX reject_load ON protheon.reject (load_id, line);
