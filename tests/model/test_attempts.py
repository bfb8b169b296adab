"""The design of attempts holds in every state that can be reached, and each part of it that is left out breaks what it is there for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.model.attempts import INVARIANTS, Bounds, Design
from tests.model.explore import NO_TERMINATE, VARIANTS, explore

DOCS = Path(__file__).parents[2] / "docs" / "model"
N_STATES = 175_983
"""Distinct states of the whole model, counted by TLC on docs/model/attempts.tla and by the explorer on tests/model/attempts.py."""


@pytest.mark.parametrize("bounds", [Bounds(kills=0), Bounds(freezes=0)], ids=["freezes", "a death"])
def test_the_design_holds_in_every_state(bounds: Bounds) -> None:
    found = explore(Design(), bounds)
    assert (found.broken, found.story) == (None, ())
    assert found.n_states > 1_000, "the model has become too small to say anything"


@pytest.mark.slow
def test_the_whole_model_has_the_states_that_tlc_counts_and_no_bad_one() -> None:
    found = explore(Design(), Bounds())
    assert (found.n_states, found.broken) == (N_STATES, None)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_left_out_is_missed(variant: str) -> None:
    design, invariant = VARIANTS[variant]
    found = explore(design, Bounds(), only=invariant)
    assert found.broken is not None
    assert found.broken.startswith(f"{invariant}:")
    assert found.story


def test_without_ending_backends_a_frozen_worker_holds_its_task_for_ever() -> None:
    found = explore(NO_TERMINATE, Bounds(kills=0))
    assert found.broken is not None
    assert found.broken.startswith("trap:")
    assert found.story[-1] == "Freeze: worker 1 stands still"


def test_the_tla_model_and_the_explorer_have_the_same_steps_invariants_and_variants() -> None:
    """By their names; that they mean the same, the number of states says."""
    spec = (DOCS / "attempts.tla").read_text()
    for invariant in INVARIANTS:
        assert re.search(rf"^{invariant.split(':')[0]} ==", spec, re.MULTILINE), invariant
    explorer = (Path(__file__).parent / "attempts.py").read_text()
    for action in set(re.findall(r'Step\(\s*f?"(\w+):', explorer)):
        assert re.search(rf"^{action}(\(\w+\))? ==", spec, re.MULTILINE), action
    for name in ("attempts", *VARIANTS):
        config = (DOCS / f"{name}.cfg").read_text()
        broken = re.findall(r"^ +(\w+) = FALSE$", config, re.MULTILINE)
        assert len(broken) == (name != "attempts")
        assert name == "attempts" or re.search(rf"^INVARIANT\n +{VARIANTS[name][1]}$", config, re.MULTILINE), name
