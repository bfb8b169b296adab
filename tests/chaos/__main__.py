"""``python -m tests.chaos``: the campaign as a command (``make chaos``). Its last line is one JSON object; exit code 1: something is wrong.

Everything is drawn from --seed: the data, the faults, their moments and targets. The logs of all processes, the faults with their
evidence (faults.jsonl) and what was expected stay in the campaign's directory if anything is wrong, or with --keep.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.campaign import Campaign, Report
from tests.chaos.faults import KINDS

LONG_RUN = 15
"""Counted faults of each kind that the long run is to have."""


def table(report: Report) -> str:
    """By kind: counted, missed, and the seconds to recover of those that hit alone: median and longest."""
    lines = [f"{'fault':<28}{'counted':>8}{'missed':>8}   seconds to recover, alone: median (longest)"]
    recovery = report.recovery_s()
    for kind in KINDS:
        if not (report.counted.get(kind) or report.missed.get(kind)):
            continue
        measures = ", ".join(f"{name} {of['median']:.1f} ({of['max']:.1f}, n={of['n']:.0f})" for name, of in recovery.get(kind, {}).items())
        lines.append(f"{kind:<28}{report.counted.get(kind, 0):>8}{report.missed.get(kind, 0):>8}   {measures}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos", description="Faults against a running cluster, and a judge.")
    parser.add_argument("--seed", type=int, default=None, help="of data and schedule; default: drawn from the clock")
    parser.add_argument("--minutes", type=float, default=5.0, help="of faults; what is loaded after the last one comes on top")
    parser.add_argument("--only", default="", help=f"kinds of faults, separated by commas, of: {', '.join(KINDS)}")
    parser.add_argument("--keep", action="store_true", help="keep the directory, whatever comes out")
    parser.add_argument("--defaults", action="store_true", help="with the product's default settings instead of short leases")
    given = parser.parse_args()
    kinds = [kind.strip() for kind in given.only.split(",") if kind.strip()] or list(KINDS)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"no such fault: {', '.join(unknown)}; there are: {', '.join(KINDS)}")
    seed = int(time.time()) % 1_000_000 if given.seed is None else given.seed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # ends in order, as Ctrl-C does
    directory = Path(tempfile.mkdtemp(prefix="protheon-chaos-"))
    print(f"the campaign's directory is {directory}", flush=True)
    is_clean = False
    try:
        settings = {"lease_s": 60.0, "renew_s": 15.0, "exit_grace_s": 10.0} if given.defaults else {}
        campaign = Campaign(
            directory, seed=seed, fault_s=given.minutes * 60, kinds=kinds, settings=settings, say=lambda text: print(text, flush=True)
        )
        report = campaign.run()
        is_clean = report.is_clean
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        if is_clean and not given.keep:
            shutil.rmtree(directory, ignore_errors=True)
    for problem in (*report.problems, *report.verdict.problems):
        print(problem)
    if report.left_behind:
        print(f"processes are left: {report.left_behind}")
    print(table(report))
    if short := [kind for kind in kinds if report.counted.get(kind, 0) < LONG_RUN]:
        print(f"fewer than {LONG_RUN} counted of: {', '.join(short)}")
    if not is_clean:
        print(f"logs and evidence are in {directory}; again: make chaos SEED={seed} MINUTES={given.minutes:g}")
    print(json.dumps(report.row()))
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
