"""Each promise broken on purpose is caught by the judge; the product itself comes out clean of the same faults."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.directed import FROZEN_S, SCENARIOS, Field, opened_field
from tests.chaos.variants import VARIANTS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

CAUGHT = {
    "no_fence": ("stale writer", r"doubled: attempts: task \d+: attempts \[1, 2\] all succeeded"),
    "complete_outside": ("killed at the end", r"doubled: (events|totals)"),
    "blind_retry": ("lost answer", r"doubled: (events|totals)"),
    "identity_by_content": ("identical chunks", r"lost: events: .* is there [1-9] times and must be"),
    "no_advisory_lock": ("frozen in commit", r"broken: attempts: task \d+: attempt 1 is open"),
    "charged_outages": ("PostgreSQL away", r"broken: charges: .* was charged a failure for an outage \(PostgreSQL stopped\)"),
    "expiry_by_age": ("slow attempt", r"broken: charges: .* was expired while it was alive and made progress"),
}
"""By variant: the fault that shows it, and what the judge must say."""
BROKEN_S = 15.0
"""How long the judge waits for a load that is broken: it may never end, and what is wrong is there long before."""
SHORT = "complete_outside"
"""The one that `make test` runs."""


def test_each_variant_and_each_scenario_is_used() -> None:
    assert set(CAUGHT) == set(VARIANTS)
    assert {scenario for scenario, _ in CAUGHT.values()} == set(SCENARIOS) - {"poisoned chunk"}  # which breaks no promise of ours


@pytest.mark.parametrize("variant", [pytest.param(name, marks=() if name == SHORT else pytest.mark.slow) for name in CAUGHT])
def test_the_judge_catches_what_is_broken_on_purpose(tmp_path: Path, variant: str) -> None:
    scenario, said = CAUGHT[variant]
    with opened_field(tmp_path, variant) as field:
        verdict = field.campaign(SCENARIOS[scenario], FROZEN_S if scenario == "frozen in commit" else BROKEN_S)
    assert not verdict.is_clean
    assert any(re.search(said, problem) for problem in verdict.problems), verdict.problems


@pytest.fixture(scope="module")
def sound_field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """The product as it is, one cluster for all scenarios."""
    with opened_field(tmp_path_factory.mktemp("sound")) as field:
        yield field


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_product_comes_out_clean_of_the_same_fault(sound_field: Field, scenario: str) -> None:
    assert sound_field.campaign(SCENARIOS[scenario]).problems == []
