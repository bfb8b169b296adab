"""What a worker process tells of itself."""

from __future__ import annotations

import json

import pytest

from protheon_dask.model import STAGES, StageClock
from protheon_dask.run.doing import Doing


class Time:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def seconds(told: dict[str, object]) -> dict[str, float]:
    values = told["stages"]
    assert isinstance(values, list)
    return {stage: value for stage, value in zip(STAGES, values, strict=True) if value}


def test_a_process_that_has_nothing_to_do_says_so_and_keeps_its_sums() -> None:
    time = Time()
    doing = Doing(time, 4)
    assert (doing.told()["task"], doing.told()["stage"], doing.told()["busy_s"]) == (None, None, 0.0)
    clock = StageClock(lines=10, rows=20, raw_bytes=300, wire_bytes=40)
    with doing.at_work(7, 3, clock, time()):
        time.now_s += 2.0
        clock.add("copy", 2.0)
        doing.done()
    time.now_s += 60.0
    told = doing.told()
    assert [told[name] for name in ("task", "run", "tasks", "lines", "rows", "raw", "wire", "busy_s")] == [
        None, None, 1, 10, 20, 300, 40, 2.0,
    ]  # fmt: skip
    assert seconds(told) == {"copy": 2.0}


def test_the_stage_that_it_is_in_counts_before_it_ends_and_is_not_counted_twice() -> None:
    time = Time()
    doing, clock = Doing(time, 4), StageClock()
    with doing.at_work(7, 3, clock, time()):
        started_s = clock.enter("transform", time())
        time.now_s += 4.0
        told = doing.told()
        assert (told["task"], told["run"], told["stage"], told["stage_s"], told["busy_s"]) == (7, 3, "transform", 4.0, 4.0)
        assert seconds(told) == {"transform": 4.0}
        clock.add("transform", time() - started_s)
        assert seconds(doing.told()) == {"transform": 4.0}
        clock.enter("copy", time())
        time.now_s += 1.0
        assert doing.told()["stage"] == "copy"
        assert seconds(doing.told()) == {"transform": 4.0, "copy": 1.0}


def test_an_attempt_without_effect_counts_what_it_read_and_is_no_completed_task() -> None:
    time = Time()
    doing, clock = Doing(time, 4), StageClock()

    def fail() -> None:
        with doing.at_work(7, None, clock, time()):
            clock.lines = 5
            time.now_s += 1.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    told = doing.told()
    assert (told["task"], told["tasks"], told["lines"], told["busy_s"]) == (None, 0, 5, 1.0)


def test_what_is_told_is_small_and_of_the_types_of_json() -> None:
    time = Time()
    doing, clock = Doing(time, 4), StageClock(lines=10**12, rows=10**12, raw_bytes=10**15, wire_bytes=10**15)
    with doing.at_work(10**9, 10**6, clock, time()):
        clock.enter("decompress", time())
        time.now_s += 1e6 / 3
        told = doing.told()
    assert json.loads(json.dumps(told)) == told
    assert len(json.dumps(told)) < 400
