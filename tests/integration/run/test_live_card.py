"""The live card in a real kernel: drawn anew in its cells by threads, at most twice a second, until the run has come to rest."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fixtures.kernel import Cell, run_cells

ROOT: Final = Path(__file__).parents[3]
WAIT_S: Final = 60

FEED: Final = """
import queue, threading, time
from dataclasses import replace
from protheon_dask.errors import BrokerUnavailable, ConfigError
from protheon_dask.model import RunState
from protheon_dask.run.live import LiveCard
from tests.unit.cli.pictures import MIDDLE

class Feed:
    '''Pictures of a run as a thread brings them; an error is raised where it stands.'''
    def __init__(self):
        self.fed, self.watches = queue.SimpleQueue(), 0
    def __call__(self):
        self.watches += 1
        while True:
            picture = self.fed.get()
            if isinstance(picture, Exception):
                raise picture
            yield picture
            if picture.state.is_final or picture.state is RunState.PAUSED:
                return
    def put(self, **changes):
        self.fed.put(replace(MIDDLE, **changes))

def wait_threads():
    while any(thread.name.startswith('protheon-card') for thread in threading.enumerate()):
        time.sleep(0.02)

def drawn():
    return card._drawn['text/plain']

def wait_drawn(text):
    while text not in drawn():
        time.sleep(0.02)

DONE = dict(state=RunState.SUCCEEDED, lines=20_000, chunks_running=0, chunks_done=16)
"""
RUN: Final = """
feed = Feed()
card = LiveCard('run 3', feed, lambda: 'http://127.0.0.1:8787/protheon')
"""


SCENES: Final = {
    "settled": (
        "feed.put(); card.show()",
        "card.show()",
        """
        card.settle(replace(MIDDLE, **DONE))
        feed.put(lines=1)  # too late: the run has come to rest
        wait_threads()
        """,
    ),
    "alone": (
        "feed.put(); card.show()",
        """
        feed.put(lines=12_000, rejected=7)
        feed.put(**DONE)
        wait_threads()
        print(feed.watches)
        """,
    ),
    "outage": (
        "feed.put(); card.show()",
        """
        feed.fed.put(BrokerUnavailable('127.0.0.1:50051 does not answer'))
        wait_drawn('since ')
        print(drawn())
        """,
        """
        feed.put(lines=9_000)
        wait_drawn('9,000')
        assert 'since ' not in drawn()
        feed.put(**DONE)
        wait_threads()
        print(feed.watches)
        """,
    ),
    "closed": ("feed.fed.put(ConfigError('this cluster is <closed>')); card.show()", "wait_threads()"),
    "broken": (
        """
        threading.excepthook = lambda died: print(died.exc_type.__name__, 'in', died.thread.name)
        feed.fed.put(ValueError('Cannot invoke RPC on <closed> channel!')); card.show()
        """,
        "wait_threads(); print('live:', card._is_live)",
        "feed.put(**DONE); card.show(); wait_threads()",
    ),
    "undrawable": (
        """
        threading.excepthook = lambda died: None
        feed.put(); card.show()
        """,
        """
        card._bundle, whole = lambda: 1 / 0, card._bundle
        begin = time.monotonic()
        while card._is_live and time.monotonic() - begin < 30:
            time.sleep(0.02)
        feed.put()  # too late for it
        wait_threads()
        card._bundle = whole
        """,
        "feed.put(**DONE); card.show(); wait_threads()",
    ),
    "resumed": (
        "feed.put(); card.show()",
        "feed.put(state=RunState.PAUSED, reason='by hand'); wait_threads(); print(drawn())",
        "feed.put(lines=9_000); card.wake(); feed.put(**DONE); wait_threads()",
    ),
    "grown": (
        "feed.put(lines=10_000, split_done=False); card.show()",
        """
        feed.put(lines=10_100, estimated_lines=40_000, split_done=False)
        wait_drawn('10,100')
        print(drawn())
        feed.put(**DONE)
        wait_threads()
        """,
    ),
}
"""Cells of one notebook: each scene has a run of its own."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Cell]]:
    """What came of each cell, by scene, of a notebook that was executed as nbconvert does it."""
    sources = [FEED, *(source for cells in SCENES.values() for source in (RUN, *map(textwrap.dedent, cells)))]
    done = iter(run_cells(sources, tmp_path_factory.mktemp("kernel"), {**os.environ, "PYTHONPATH": str(ROOT)})[1:])
    return {name: [next(done) for _ in (RUN, *cells)][1:] for name, cells in SCENES.items()}


def test_an_executed_notebook_has_the_last_picture_in_every_cell_that_shows_the_run(scenes: dict[str, list[Cell]]) -> None:
    shown, again, settled = scenes["settled"]
    for cell in (shown, again):
        assert "✓ succeeded" in cell.shown["text/html"]
        assert "100 %" in cell.text
        assert 'href="http://127.0.0.1:8787/protheon"' in cell.shown["text/html"]
        assert cell.n_outputs == 1
    assert settled.n_outputs == 0


def test_threads_draw_it_without_any_help_and_end_with_the_run(scenes: dict[str, list[Cell]]) -> None:
    shown, waited = scenes["alone"]
    assert "✓ succeeded" in shown.shown["text/html"]
    assert waited.printed == "1\n"


def test_an_outage_is_told_with_since_when_and_the_card_goes_on_after_it(scenes: dict[str, list[Cell]]) -> None:
    shown, outage, after = scenes["outage"]
    assert "UTC: 127.0.0.1:50051 does not answer" in outage.printed
    assert "43 %" in outage.printed, "what was committed stays"
    assert after.printed == "2\n"
    assert "✓ succeeded" in shown.shown["text/html"]


def test_a_card_that_can_never_go_on_says_why_and_one_without_a_picture_too(scenes: dict[str, list[Cell]]) -> None:
    shown, waited = scenes["closed"]
    assert "run 3: this cluster is &lt;closed&gt;" in shown.shown["text/html"]
    assert waited.n_outputs == 0


def test_an_error_that_nobody_foresaw_is_told_and_the_next_look_begins_anew(scenes: dict[str, list[Cell]]) -> None:
    broken, ended, again = scenes["broken"]
    assert "ValueError in protheon-card-read\n" in broken.printed + ended.printed
    assert ended.printed.endswith("live: False\n")
    for cell in (broken, again):
        assert "✓ succeeded" in cell.shown["text/html"]


def test_a_card_that_cannot_be_drawn_lets_its_threads_end(scenes: dict[str, list[Cell]]) -> None:
    shown, _, again = scenes["undrawable"]
    for cell in (shown, again):
        assert "✓ succeeded" in cell.shown["text/html"]


def test_a_paused_run_that_goes_on_is_drawn_again_where_it_is_shown(scenes: dict[str, list[Cell]]) -> None:
    shown, paused, resumed = scenes["resumed"]
    assert "to go on: run.resume()" in paused.printed
    assert resumed.n_outputs == 0
    assert "✓ succeeded" in shown.shown["text/html"]


def test_what_is_drawn_never_runs_backwards_when_an_estimate_grows(scenes: dict[str, list[Cell]]) -> None:
    shown, grown = scenes["grown"]
    assert "50 %" in grown.printed
    assert "lines 10,100 of ~40,000" in grown.printed
    assert "100 %" in shown.shown["text/html"]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A client of a kernel whose messages are read one by one."""
    from jupyter_client.manager import start_new_kernel

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=WAIT_S)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_it_is_drawn_at_most_twice_a_second_however_fast_pictures_come(kernel: Any) -> None:
    seconds = 2
    feeding = f"""
    feed.put(); card.show()
    begin = time.monotonic()
    while time.monotonic() - begin < {seconds}:
        feed.put(lines=8_750 + int(1_000 * (time.monotonic() - begin)))
        time.sleep(0.002)
    print('fed')
    """
    displays: list[str] = []

    def note(message: dict[str, Any]) -> None:
        displays.append(message["msg_type"])

    kernel.execute_interactive(FEED + RUN, timeout=WAIT_S, output_hook=note)
    kernel.execute_interactive(textwrap.dedent(feeding), timeout=WAIT_S, output_hook=note)
    assert displays.count("display_data") == 1
    assert displays.count("stream") == 1
    assert 2 <= displays.count("update_display_data") <= 2 * seconds + 1
    assert "error" not in displays


def said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True, cwd=ROOT)
    return done.stdout


def test_in_ipythons_console_the_run_is_printed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    told = said(sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "-c", f"{FEED}{RUN}feed.put(); card.show()")
    assert told.count("run 3") == 1
    assert "43 %" in told
    assert "<div" not in told


def test_outside_of_ipython_nothing_is_drawn_and_ipython_is_not_loaded() -> None:
    program = (
        f"{FEED}{RUN}feed.put(); card.show(); card.settle(MIDDLE)\nimport sys; print('IPython' in sys.modules, threading.active_count())"
    )
    assert said(sys.executable, "-c", program) == "False 1\n"
