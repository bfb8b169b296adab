"""Preload of ``dask scheduler``: the plugin ``protheon``, which holds what the broker sends, and the pages that draw it.

Pages must be registered while this module is imported, before Dask builds its routes; the plugin in dask_setup, whose failure Dask
only logs: the broker notices that nobody answers, and says so (ClusterPicture.missing).
"""

from __future__ import annotations

import time
from typing import Any

from distributed import Scheduler
from distributed.dashboard.scheduler import applications
from distributed.diagnostics.plugin import SchedulerPlugin

from protheon_dask.broker.open_files import raise_open_files
from protheon_dask.run.lives import give_lives
from protheon_dask.run.logs import log_to_stderr
from protheon_dask.run.preloading import or_end
from protheon_dask.run.settings import read_settings
from protheon_dask.run.spans import Pruning, bear_forgotten
from protheon_dask.run.trust.dask_tls import keep_renewed, refuse_removed
from protheon_dask.telemetry import pages
from protheon_dask.telemetry.board import TAKE_PICTURE, TAKE_STORY, Board, picture_from, story_from

PLUGIN = "protheon"
"""The plugin's name: ``scheduler.plugins["protheon"]``."""

pages.register(applications)


class ProtheonPlugin(Board, SchedulerPlugin):
    """The board as a plugin of the scheduler: see telemetry.series.Told for what pages ask of it. All runs in its event loop."""

    name = PLUGIN
    idempotent = True

    def __init__(self) -> None:
        Board.__init__(self, time.monotonic)
        self._pruning = Pruning()

    def update_graph(self, scheduler: Scheduler, *, client: str, tasks: list[Any], **_: Any) -> None:
        """Hook: tasks have come, and none is given to a worker yet."""
        give_lives(scheduler, client, tasks)
        self._pruning.look(scheduler)

    def take_picture(self, told: bytes) -> dict[str, Any]:
        """Handler: the broker's picture of this second. Answers with the runs whose stories are wanted."""
        self.take(picture_from(told))
        return {"wanted": self.wanted()}

    def take_told(self, run: int, told: bytes | None, took_s: float = 0.0) -> dict[str, Any]:
        """Handler: the story of a run that was wanted, which took so long to read; None: there is no such run."""
        self.take_story(run, None if told is None else story_from(told), took_s)
        return {}


def dask_setup(scheduler: Scheduler) -> None:
    """Called by Dask when the scheduler listens, before it is announced."""
    log_to_stderr("protheon_dask")  # Dask has set up its own
    raise_open_files()
    with or_end("scheduler"):
        settings = read_settings({}).settings
        refuse_removed(scheduler, settings)
        keep_renewed(scheduler, settings)
    plugin = ProtheonPlugin()
    scheduler.add_plugin(plugin)
    scheduler.handlers[TAKE_PICTURE] = plugin.take_picture
    scheduler.handlers[TAKE_STORY] = plugin.take_told
    pages.add_to_nav(scheduler)
    bear_forgotten(scheduler)
