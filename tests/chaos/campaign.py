"""The campaign: submissions without end, faults by the schedule, and the judge at the end."""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import judge, material
from tests.chaos.cluster import Cluster, wait_until
from tests.chaos.faults import KINDS, Strike
from tests.chaos.judge import Interval, Verdict
from tests.chaos.material import Expected
from tests.chaos.schedule import Schedule, Step

PIPELINE = f"{Path(__file__).with_name('campaign_pipeline.py')}:campaign"
CHUNK_LINES, LINE_S, PAD_BYTES = 100, 0.009, 1_500
"""Of the material: a chunk takes about a second."""
SOURCES_A_RUN, CHUNKS_A_SOURCE = 3, 20
RUNS_AT_ONCE = 2
NOTES, NOTES_A_RUN, NOTE_S = "client-notes-", 6, 0.6
"""Clients of the general queue; tasks that are submitted beside each run, and how long one takes."""
RECOVER_S = 45.0
"""How long a fault that struck alone may take until all is well again, before the schedule goes on without it."""
FINISH_S = 300.0
"""How long what was submitted may take after the last fault."""
FEED_S = 0.5
LIVE_KINDS_WITH_STALE_WRITES = frozenset({"worker stopped", "host frozen", "black hole to PostgreSQL", "black hole from PostgreSQL"})
"""Faults after which somebody writes who may not any more."""


@dataclass
class Report:
    """What came of a campaign."""

    seed: int
    seconds: float
    verdict: Verdict
    counted: dict[str, int]
    missed: dict[str, int]
    strikes: list[Strike]
    left_behind: list[int]
    problems: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return self.verdict.is_clean and not self.problems and not self.left_behind

    def recovery_s(self) -> dict[str, dict[str, dict[str, float]]]:
        """By kind and measure, of faults that hit alone: how many, the median and the longest, in seconds."""
        found: dict[str, dict[str, list[float]]] = {}
        for strike in self.strikes:
            for measure, seconds in strike.recovery_s.items():
                found.setdefault(strike.kind, {}).setdefault(measure, []).append(seconds)
        return {
            kind: {
                measure: {"n": len(values), "median": round(statistics.median(values), 2), "max": round(max(values), 2)}
                for measure, values in measures.items()
            }
            for kind, measures in found.items()
        }

    def row(self) -> dict[str, Any]:
        """The campaign's last line."""
        verdict = self.verdict
        return {
            "lost": verdict.lost,
            "doubled": verdict.doubled,
            "wrong": verdict.wrong,
            "problems": len(verdict.problems) + len(self.problems),
            "faults": sum(self.counted.values()),
            "faults_by_kind": self.counted,
            "missed": self.missed,
            "expired": verdict.expired,
            "stale_writes_refused": verdict.stale_writes_refused,
            "ambiguous_resolved": verdict.ambiguous_resolved,
            "recovery_s": self.recovery_s(),
            "rows": verdict.n_rows,
            "chunks": verdict.n_chunks,
            "seconds": round(self.seconds, 1),
            "seed": self.seed,
        }


class Campaign:
    """Single use: run() from beginning to end.

    kinds:   of faults, by name. n_faults: it ends when that many were counted, or after seconds.
    fault_s: seconds of faults; what is loaded after the last one comes on top.
    """

    def __init__(
        self,
        directory: Path,
        *,
        seed: int,
        fault_s: float,
        kinds: Sequence[str] = tuple(KINDS),
        n_faults: int | None = None,
        hosts: Sequence[int] = (1, 1, 2),
        chunks_a_source: int = CHUNKS_A_SOURCE,
        variants: Sequence[str] = (),
        settings: dict[str, float] | None = None,
        say: Callable[[str], object] = print,
    ) -> None:
        self._directory, self._seed, self._fault_s, self._n_faults, self._say = directory, seed, fault_s, n_faults, say
        self._chunks_a_source = chunks_a_source
        self.cluster = Cluster(directory, hosts, variants=variants, env={}, **(settings or {}))
        self.schedule = Schedule(seed, kinds)
        self._strikes: list[Strike] = []
        self._problems: list[str] = []
        self._expected: Expected | None = None
        self._n_runs = 0
        self._is_feeding = threading.Event()
        self._started_at = time.monotonic()

    def run(self) -> Report:
        """Start everything, strike, load to the end, judge, and leave nothing behind."""
        with self.cluster:
            self._say(f"seed {self._seed}: {len(self.cluster.workers)} workers are ready after {self._age_s():.1f} s")
            self._started_at = time.monotonic()
            feeder = threading.Thread(target=self._feed, name="feeder", daemon=True)
            self._is_feeding.set()
            feeder.start()
            try:
                self._strike_on()
            finally:
                self._is_feeding.clear()
                feeder.join()
            self._finish()
            self.cluster.end_parts()
            verdict = self._judge()
        return Report(
            self._seed,
            self._age_s(),
            verdict,
            {kind: self.schedule.counted[kind] for kind in KINDS if self.schedule.counted[kind]},
            dict(self.schedule.missed),
            self._strikes,
            self.cluster.left_behind(),
            self._problems,
        )

    # --- submissions ------------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Keep runs going: each of new sources and one that the run before has too."""
        while self._is_feeding.is_set():
            runs = [part for part in self.cluster.clients() if not part.name.startswith(NOTES)]
            if sum(not part.is_over for part in runs) < RUNS_AT_ONCE:
                self._submit()
            time.sleep(FEED_S)

    def _submit(self) -> None:
        made = material.make(
            self._directory / "sources",
            seed=self._seed,
            n_sources=SOURCES_A_RUN,
            n_chunks=self._chunks_a_source,
            chunk_lines=CHUNK_LINES,
            pad_bytes=PAD_BYTES,
            line_s=LINE_S,
            first_source_no=1 + self._n_runs * SOURCES_A_RUN,
        )
        before, first_no, expected_file = self._expected, 1 + self._n_runs * NOTES_A_RUN, self._directory / "expected.json"
        made = made.with_notes(material.make_notes(NOTES_A_RUN, seed=self._seed, first_no=first_no, wait_s=NOTE_S / 2))
        self._expected = made if before is None else before.plus(made)
        self._expected.save(expected_file)
        self._n_runs += 1
        self.cluster.submit_notes(f"{NOTES}{self._n_runs}", expected_file, first_no, NOTES_A_RUN)
        overlap = before.paths[-1:] if before is not None else []
        self.cluster.submit(f"client-{self._n_runs}", PIPELINE, [*overlap, *made.paths], CHUNK_LINES)

    # --- faults -----------------------------------------------------------------------------------------------------------

    def _strike_on(self) -> None:
        for step in self.schedule.steps():
            if self._age_s() > self._fault_s or (self._n_faults is not None and self.schedule.counted.total() >= self._n_faults):
                return
            time.sleep(step.pause_s)
            self._step(step)

    def _step(self, step: Step) -> None:
        threads = []
        for n, (kind, seed) in enumerate(zip(step.kinds, step.seeds, strict=True)):
            if n:
                time.sleep(step.between_s)
            threads.append(threading.Thread(target=self._strike, args=(step, kind, seed), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()
        if not wait_until(self._is_well, RECOVER_S, 0.1):
            self._say(f"{self._age_s():7.1f}  not well {RECOVER_S:g} s after {' and '.join(step.kinds)}: {self.cluster.ledger.states()}")

    def _strike(self, step: Step, kind: str, seed: str) -> None:
        try:
            strike = KINDS[kind](self.cluster, random.Random(seed)).strike()
        except Exception as exc:  # noqa: BLE001  # a fault that cannot be done is the campaign's problem, and is said at its end
            self._problems.append(f"{kind}, step {step.no}: {type(exc).__name__}: {exc}")
            strike = None
        is_counted = strike is not None and strike.is_counted
        self.schedule.note(kind, is_counted=is_counted)
        if strike is None:
            self._say(f"{self._age_s():7.1f}  {kind}: nothing to hit")
            return
        strike.is_alone = len(step.kinds) == 1
        self._strikes.append(strike)
        word = "" if is_counted else ": missed"
        beside = "" if strike.is_alone else f" (of {len(step.kinds)})"
        self._say(f"{self._age_s():7.1f}  {kind}{beside}, {strike.target}, {strike.healed_at - strike.struck_at:.1f} s{word}")
        if is_counted and strike.is_alone:
            self._measure(strike)
        with (self._directory / "faults.jsonl").open("a") as log:
            log.write(json.dumps(strike.row(), default=str) + "\n")

    def _measure(self, strike: Strike) -> None:
        """Wait for what the fault took to be there again, and note how long that was."""
        wait_until(lambda: self._recovered(strike), RECOVER_S, 0.1)
        if not self._recovered(strike):
            self._say(f"{self._age_s():7.1f}  {strike.kind}: no recovery was seen within {RECOVER_S:g} s")

    def _recovered(self, strike: Strike) -> bool:
        ledger, back_at = self.cluster.ledger, strike.back_at
        seconds: dict[str, float | None] = {}
        if strike.kind.startswith("scheduler"):
            assert back_at is not None, "an outage ends"
            claims = ledger.claims_by_worker(back_at)
            is_full = len(claims) == len(self.cluster.workers)
            seconds["full_speed"] = max(claims.values()) - back_at if is_full else None
        elif strike.kind.startswith("PostgreSQL"):
            assert back_at is not None, "an outage ends"
            at = ledger.first_commit_after(back_at)
            seconds["first_commit"] = None if at is None else at - back_at
        elif strike.kind in ("broker killed", "broker cut off", "workspace full"):
            assert back_at is not None, "an outage ends"
            at = ledger.first_commit(started_after=back_at)
            seconds["first_commit"] = None if at is None else at - back_at
        elif strike.kind.startswith("chunk"):
            seconds["cut_again"] = strike.healed_at - strike.struck_at
        elif strike.workers or strike.kind in ("COMMIT dropped", "transfer cut", "transfer black-holed"):
            endings = ledger.endings(strike.attempts)
            for n, measure in enumerate(("ready", "claimed", "committed")):
                times = [ending[n] for ending in endings if ending[0] is not None or n == 2]  # one that succeeded after all lost nothing
                if times:
                    seconds[measure] = None if None in times else max(0.0, *(time - strike.struck_at for time in times if time is not None))
        strike.recovery_s = {measure: round(value, 3) for measure, value in seconds.items() if value is not None}
        return len(strike.recovery_s) == len(seconds)

    def _is_well(self) -> bool:
        """Every worker is known to the broker again, and somebody works."""
        names = {attempt.worker for attempt in self.cluster.ledger.open_attempts()}
        return len(names) == len(self.cluster.workers) or not self.cluster.ledger.states().get("ready", 0)

    # --- the end ----------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        self._say(f"{self._age_s():7.1f}  the last fault is over: what was submitted is loaded to its end")
        if not wait_until(lambda: all(part.is_over for part in self.cluster.clients()), FINISH_S, 0.2):
            self._problems.append(f"{FINISH_S:g} s after the last fault runs are not at their end: {self.cluster.ledger.states()}")
        wait_until(lambda: not any(self.cluster.workspace.glob("*/*/*.zst")), 15)

    def _judge(self) -> Verdict:
        assert self._expected is not None, "something was submitted"
        evidence = [Interval(strike.kind, strike.struck_at, strike.healed_at, tuple(strike.workers)) for strike in self._strikes]
        logs = [part.log for part in self.cluster.workers]
        return judge.judge(self.cluster.url, self.cluster.workspace, self._expected, evidence, logs=logs)

    def _age_s(self) -> float:
        return time.monotonic() - self._started_at
