"""Whatever happens in whatever order, the ledger's verbs do what the design says; and a fault in any of them is found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.properties.effort import examples
from tests.properties.ledger_machine import LedgerMachine, Stage


@pytest.fixture
def stage(ledger_database: str) -> Iterator[Stage]:
    made = Stage(ledger_database)
    yield made
    made.close()


@pytest.mark.timeout(1_800)  # with the thorough profile
def test_the_verbs_keep_to_the_model_in_any_order(stage: Stage) -> None:
    run_state_machine_as_test(lambda: LedgerMachine(stage), settings=settings(examples(25), stateful_step_count=40))  # type: ignore[arg-type]  # any maker will do
