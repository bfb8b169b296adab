"""The campaign itself, short: in `make test` a few kinds of faults, in `make test-all` all of them for three minutes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign, Report
from tests.chaos.cluster import FREEZER
from tests.chaos.faults import KINDS
from tests.fixtures.processes import of_home

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
SHORT = ("worker killed", "worker stopped", "COMMIT dropped", "connections cut", "attempt executed twice", "chunk file corrupted")
SEED = 11


def assert_clean(report: Report) -> None:
    assert report.problems == []
    assert report.verdict.problems == []
    assert (report.verdict.lost, report.verdict.doubled, report.verdict.wrong) == (0, 0, 0)
    assert report.left_behind == []
    assert report.is_clean


@pytest.mark.timeout(240)
def test_a_short_campaign_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    campaign = Campaign(
        tmp_path,
        seed=SEED,
        fault_s=90,
        kinds=SHORT,
        n_faults=len(SHORT),
        hosts=(1, 1),
        chunks_a_source=4,
        settings={"lease_s": 6.0, "renew_s": 1.5},
    )
    report = campaign.run()
    assert_clean(report)
    assert sum(report.counted.values()) >= len(SHORT)
    assert report.verdict.n_rows > 1_000
    assert report.verdict.expired + report.verdict.stale_writes_refused > 0
    assert report.verdict.ambiguous_resolved > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_minutes_of_all_faults_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    report = Campaign(tmp_path, seed=SEED, fault_s=180).run()
    assert_clean(report)
    assert len(report.counted) > len(KINDS) // 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_campaign_that_is_broken_off_leaves_no_process_no_mount_and_nothing_frozen(tmp_path: Path, number: signal.Signals) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.chaos", "--seed", str(SEED), "--minutes", "1", "--only", "host frozen"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        directory = Path(process.stdout.readline().rsplit(" ", 1)[-1].strip())
        assert "workers are ready" in process.stdout.readline()
        assert len(of_home(directory)) > 6
        end_at = time.monotonic() + 30
        while time.monotonic() < end_at and os.geteuid() == 0 and not list(FREEZER.glob(f"{directory.name}-*")):
            time.sleep(0.1)
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(60) == 130
    assert of_home(directory) == []
    assert str(directory) not in Path("/proc/mounts").read_text()
    assert not list(FREEZER.glob(f"{directory.name}-*"))
