"""RunStory survives JSON, and knows of which moment it is."""

from __future__ import annotations

import json
from dataclasses import replace

from protheon_dask.telemetry.story import RunStory
from tests.unit.telemetry.stories import FAULTY, LIVE


def test_it_survives_the_way_over_json() -> None:
    for story in (FAULTY, LIVE):
        assert RunStory.from_json(json.loads(json.dumps(story.to_json()))) == story


def test_it_is_as_of_its_end_or_of_the_moment_at_which_it_was_told() -> None:
    assert FAULTY.ended_at is not None
    assert FAULTY.as_of == FAULTY.ended_at
    later = replace(LIVE, statistics=replace(LIVE.statistics, seconds=LIVE.statistics.seconds + 5))
    assert later.as_of == LIVE.as_of + 5
