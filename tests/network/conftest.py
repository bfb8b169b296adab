"""What the cases over a network share: how long each recovery took, printed as one table at the end of `make network`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

Record = Callable[..., None]
HEADS = ("what happened", "its chunks are at work elsewhere after (s)", "it works again after (s)")


@pytest.fixture(scope="session")
def _recoveries(request: pytest.FixtureRequest) -> Iterator[list[tuple[str, float | None, float | None]]]:
    """The rows of the table of docs/reliability.md."""
    rows: list[tuple[str, float | None, float | None]] = []
    yield rows
    if rows:
        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print("\n| " + " | ".join(HEADS) + " |\n|---|---:|---:|")
            for what, elsewhere_s, again_s in rows:
                cells = ["" if seconds is None else f"{seconds:.1f}" for seconds in (elsewhere_s, again_s)]
                print(f"| {what} | {' | '.join(cells)} |")


@pytest.fixture
def record(_recoveries: list[tuple[str, float | None, float | None]]) -> Record:
    """Note a recovery: from the fault until others work on what was in hand there, and from its end until the host works again."""

    def note(what: str, *, elsewhere_s: float | None = None, again_s: float | None = None) -> None:
        _recoveries.append((what, elsewhere_s, again_s))

    return note
