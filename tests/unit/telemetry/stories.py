"""Stories of runs for tests that draw: one that met everything, one that is at work, and some that have nearly nothing to tell."""

from __future__ import annotations

from dataclasses import replace

from protheon_dask.model import STAGES, Death, Outcome, Refusal, RunState
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.telemetry.story import Bin, RunStory, Span, StoryFile
from tests.unit.cli.pictures import picture_of

HOSTILE = "</script><script>window.hostile=1</script><img src=x onerror='window.hostile=1'>&amp;\u2028\x00\"'`${1}"
"""What breaks out of texts that are not escaped, in HTML, in a script, in an attribute and in JSON."""
SUBMITTED_AT = 1_790_000_000.0
HOSTS = ("laptop", "desk-under-the-window")
SECONDS = {
    "wait": 0.2, "fetch": 0.15, "decompress": 0.1, "transform": 0.9, "copy": 1.4, "merge": 0.4, "ledger": 0.05, "commit": 0.1,
}  # fmt: skip
ENDINGS = {7: Outcome.FAILED, 12: Outcome.CRASHED, 19: Outcome.EXPIRED, 23: Outcome.RELEASED, 31: Outcome.CANCELLED}


def span_of(no: int, n_workers: int = 4, hosts: tuple[str, ...] = HOSTS) -> Span:
    """The attempt of this number of a run whose workers take 3.5 s for each."""
    worker = no % n_workers
    outcome = ENDINGS.get(no, Outcome.SUCCEEDED)
    start_s = 1.0 + 3.6 * (no // n_workers) + 0.3 * worker
    return Span(
        task_id=100 + no,
        attempt_no=1,
        chunk_no=no + 1,
        path="/data/reports.jsonl.zst",
        worker=f"{hosts[worker % len(hosts)]}-{worker}",
        host=hosts[worker % len(hosts)],
        start_s=round(start_s, 3),
        end_s=round(start_s + 3.5, 3),
        outcome=outcome,
        cost="nothing" if outcome is Outcome.SUCCEEDED else "failure",
        error_class=None if outcome is Outcome.SUCCEEDED else "MemoryError",
        message=None if outcome is Outcome.SUCCEEDED else f"no room for it {HOSTILE}",
        lines=1_250,
        stage_seconds=dict(SECONDS) if outcome is Outcome.SUCCEEDED else {"fetch": 0.2, "transform": 1.1},
    )


def bins_of(spans: tuple[Span, ...], seconds: float, n: int = 60) -> tuple[float, tuple[Bin, ...]]:
    """Length of a piece of time, and what these attempts committed in each of n."""
    bin_s = seconds / n
    made = []
    for no in range(n):
        ended = [span for span in spans if span.end_s is not None and no == min(n - 1, int(span.end_s / bin_s))]
        done = [span for span in ended if span.outcome == Outcome.SUCCEEDED]
        lines = sum(span.lines for span in done)
        causes = [str(span.outcome) for span in ended if span.outcome not in (Outcome.SUCCEEDED, Outcome.CANCELLED)]
        made.append(
            Bin(
                start_s=round(no * bin_s, 3),
                lines=lines,
                rows=5 * lines,
                raw_bytes=6_600 * lines,
                wire_bytes=700 * lines,
                rejects=len(done),
                dead_letters=int(any(span.chunk_no == 8 for span in ended)),
                retries_by_cause={cause: causes.count(cause) for cause in sorted(set(causes))},
                stage_seconds={stage: sum(span.stage_seconds.get(stage, 0.0) for span in done) for stage in STAGES if done},
            )
        )
    return bin_s, tuple(made)


def story_of(statistics: RunStatistics, spans: tuple[Span, ...], **values: object) -> RunStory:
    """The story of a run with these attempts."""
    bin_s, bins = bins_of(spans, max(statistics.seconds, 1.0))
    story = RunStory(
        statistics=statistics,
        submitted_at=SUBMITTED_AT,
        ended_at=SUBMITTED_AT + statistics.seconds if statistics.state.is_final else None,
        bin_s=bin_s,
        bins=bins,
        spans=spans,
        n_attempts=len(spans),
        bound=None,
        settings={"pipeline version": "1", "lines a chunk": "1,250 at most, chosen by size", "reject limit": "50%"},
        n_workers=len({span.worker for span in spans}),
        n_hosts=len({span.host for span in spans}),
    )
    return replace(story, **values)  # type: ignore[arg-type]  # fields of a story


FAULTY = story_of(
    picture_of(
        state=RunState.INCOMPLETE,
        reason=f"1 chunk is dead {HOSTILE}",
        paths=(f"/data/{HOSTILE}/reports.jsonl.zst", "/data/more.jsonl.zst"),
        pipeline=f"pgcr {HOSTILE}",
        notices=(f"a notice {HOSTILE}",),
        files=2,
        files_done=1,
        chunks=40,
        chunks_ready=0,
        chunks_running=0,
        chunks_done=39,
        chunks_dead=1,
        lines=48_750,
        loaded=48_700,
        rejected=40,
        filtered=6,
        blank=4,
        rejected_parts=3,
        estimated_lines=50_000,
        dead_letters=1,
        retries=4,
        own_lines=48_750,
        own_raw_bytes=321_000_000,
        seconds=40.0,
        stage_seconds={stage: 39 * seconds for stage, seconds in SECONDS.items()},
        refusals=(
            Refusal(30, 43, "/data/more.jsonl.zst", 17, None, f"kills: expected int {HOSTILE}", None, None),
            Refusal(13, 43, "/data/more.jsonl.zst", 19, None, "value out of range for type integer", "22003", "pgcr.instance"),
        ),
        deaths=(Death(1, "failed 5 times", "MemoryError", f"no room for it {HOSTILE}"),),
    ),
    tuple(span_of(no) for no in range(40)),
    bound=f"bound by COPY on the database {HOSTILE}",
    files=(
        StoryFile(f"/data/{HOSTILE}/reports.jsonl.zst", "new", "complete", None, 9_000_000, False, False, 30, 29, 1, 36_250, 30),
        StoryFile("/data/more.jsonl.zst", "resumed", "damaged", f"cut off {HOSTILE}", 3_000_000, True, False, 10, 10, 0, 12_500, 10),
    ),
)
LIVE = story_of(
    picture_of(seconds=20.0),
    (*(span_of(no) for no in range(16)), replace(span_of(17), end_s=None, outcome=None, cost=None, stage_seconds={})),
)
NOTHING = story_of(
    picture_of(
        state=RunState.SUCCEEDED, seconds=0.2, chunks=0, chunks_ready=0, chunks_running=0, chunks_done=0, lines=0, loaded=0, rejected=0,
        blank=0, rows=(), own_lines=0, own_raw_bytes=0, raw_bytes=0, wire_bytes=0, retries=0, estimated_lines=0, stage_seconds={},
    ),
    (),
)  # fmt: skip
SKIPPED = replace(
    NOTHING,
    statistics=picture_of(
        state=RunState.SUCCEEDED, seconds=0.4, skipped_files=1, files_done=1, chunks_ready=0, chunks_running=0, chunks_done=16,
        lines=20_000, loaded=19_990, rejected=5, blank=5, own_lines=0, own_raw_bytes=0, retries=0, stage_seconds={},
        notices=("/data/reports.jsonl.zst: loaded already by run 1: skipped",),
    ),
    files=(StoryFile("/data/reports.jsonl.zst", "skipped", "complete", None, 3_000_000, True, False, 16, 16, 0, 20_000, 5),),
)  # fmt: skip


def very_many(n_spans: int, n_attempts: int, n_workers: int) -> RunStory:
    """A run of very many chunks on very many workers: what a story holds of it, and not more."""
    hosts = tuple(f"node-{no:03d}.some.long.domain.example.org" for no in range(max(1, n_workers // 8)))
    spans = tuple(
        replace(span_of(no, n_workers, hosts), path="/archive/2026/" + "very-" * 20 + f"long-{no % 900}.jsonl.zst") for no in range(n_spans)
    )
    seconds = max(span.end_s or 0.0 for span in spans) + 1.0
    statistics = picture_of(
        state=RunState.SUCCEEDED, seconds=seconds, chunks=n_attempts, chunks_done=n_attempts, chunks_ready=0, chunks_running=0
    )
    return story_of(statistics, spans, n_attempts=n_attempts)
