"""Workers: what each does now, for how long, and how much of its time it works. The busiest fifty, and how many more there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bokeh.models.ui import UIElement

from protheon_dask import words
from protheon_dask.telemetry import palette
from protheon_dask.telemetry.pages import markup
from protheon_dask.telemetry.pages.panel import Panel
from protheon_dask.telemetry.palette import LIGHT, WORKERS, Look
from protheon_dask.telemetry.picture import BUSY, IDLE, LOST, WorkerPicture
from protheon_dask.telemetry.story import RunStory

MOST_SHOWN: Final = 50
LONGEST_NAME: Final = 24  # characters: the ends of names tell workers apart, and there is no room for more
SILENT_S: Final = 20.0  # a heartbeat is due every few seconds: of one that is older the tile tells


@dataclass(frozen=True, slots=True)
class Tile:
    """What is written of one worker."""

    name: str
    host: str
    look: Look
    doing: str
    utilization: float
    amount: str  # how fast, or how much
    tooltip: str


class Workers(Panel):
    """A tile a worker, as many side by side as there is room for."""

    title = "Workers"
    css = f"""
.tiles {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(216px, 1fr)); gap: 6px; margin-top: 6px; }}
.worker {{ border: 1px solid {LIGHT.border}; border-left-width: 4px; border-radius: 4px; padding: 3px 7px 5px; min-width: 0; }}
.row {{ display: flex; gap: 6px; justify-content: space-between; align-items: baseline; }}
.row > :last-child {{ white-space: nowrap; flex: none; }}
.name {{ font-weight: 600; }}
.bar {{ height: 7px; margin: 2px 0; flex: 1 1 auto; }}
.doing {{ font-size: 12px; }}
.percent {{ font-variant-numeric: tabular-nums; font-size: 12px; }}
"""

    def _make(self) -> Sequence[UIElement]:
        self._body = self.words()
        self._told: RunStory | None = None
        return [self._body]

    def _draw(self) -> None:
        seen = self.view.seen
        if seen.run is None:
            self._told = None
            workers = seen.picture.workers if seen.picture else ()
            self._tell_now(workers)
        elif seen.story is None:
            self._told = None
            self._show([], [], markup.note(seen.waits_for_story or ""))
        elif self._told is not seen.story:
            self._told = seen.story
            self._tell_story(seen.story)

    def _tell_now(self, workers: Sequence[WorkerPicture]) -> None:
        if not workers:
            hint = "No worker has come yet: protheon worker MASTER:50051 starts some on a host." if self.view.seen.picture else ""
            self._show([], [], markup.note(hint))
            return
        n = {status: sum(worker.status == status for worker in workers) for status in (BUSY, IDLE, LOST)}
        busiest = sorted(workers, key=lambda one: (-one.utilization, one.name))
        lost = [worker for worker in busiest if worker.status == LOST]
        others = [worker for worker in busiest if worker.status != LOST]
        shown = [*lost[: MOST_SHOWN // 5], *others][:MOST_SHOWN]  # what was lost is seen first, and is no more than a part
        shown.sort(key=lambda one: _in_order(one.name))
        mean = sum(worker.utilization for worker in others) / len(others) if others else 0.0
        figures = [markup.figure(WORKERS[status].label, words.count(n[status]), "", markup.swatch(WORKERS[status])) for status in n]
        figures.append(markup.figure("utilization", words.percent(mean), "in the mean"))
        left = (
            f"{words.counted(len(workers) - len(shown), 'more worker')}: these are the {len(shown)} busiest"
            if len(shown) < len(workers)
            else ""
        )
        self._show(figures, [now(worker) for worker in shown], markup.note(left) if left else "")

    def _tell_story(self, story: RunStory) -> None:
        tiles = of_story(story)
        figures = [markup.figure("worked on it", words.count(len(tiles)))]
        told = (
            f"from {words.count(len(story.spans))} of {words.counted(story.n_attempts, 'attempt')}"
            if len(story.spans) < story.n_attempts
            else ""
        )
        more = f"{words.counted(len(tiles) - MOST_SHOWN, 'more worker')}: these did most" if len(tiles) > MOST_SHOWN else ""
        notes = " · ".join(part for part in (told, more) if part)
        self._show(figures, tiles[:MOST_SHOWN], markup.note(notes) if notes else "")

    def _show(self, figures: Sequence[str], tiles: Sequence[Tile], after: str) -> None:
        self.source.data = {"worker": [tile.name for tile in tiles], "utilization": [tile.utilization for tile in tiles]}
        self.set_head(*figures)
        drawn = "".join(map(_draw_tile, tiles))
        self.set_words(self._body, (f'<div class="tiles">{drawn}</div>' if drawn else "") + after)


def now(worker: WorkerPicture) -> Tile:
    """What it does at this moment."""
    look = WORKERS[worker.status]
    run = f" · run {worker.run}" if worker.run is not None else ""
    stage = palette.STAGES.get(worker.stage or "")
    if worker.status == LOST:
        doing = f"{look.symbol} lost, last heard {words.duration(worker.last_heartbeat_s)} ago"
    elif stage is not None:
        doing = f"{look.symbol} {stage.label} {words.duration(worker.stage_s)}{run}"
    else:
        doing = f"{look.symbol} {look.label}{run}"
    if worker.status != LOST and worker.last_heartbeat_s > SILENT_S:
        doing += f" · silent for {words.duration(worker.last_heartbeat_s)}"
    return Tile(
        name=worker.name,
        host=worker.host,
        look=look,
        doing=doing,
        utilization=worker.utilization,
        amount=f"{words.rate(worker.lines_per_s)} lines/s" if worker.status == BUSY else "",
        tooltip=f"{worker.name} on {worker.host}: {doing}; {words.counted(worker.tasks_completed, 'chunk')} done since it started",
    )


def of_story(story: RunStory) -> list[Tile]:
    """What each worker did for the run, those that did most first."""
    seconds: dict[tuple[str, str], float] = {}
    attempts: dict[tuple[str, str], int] = {}
    lines: dict[tuple[str, str], int] = {}
    length_s = max(story.statistics.seconds, 1e-9)
    for span in story.spans:
        who = (span.worker, span.host)
        seconds[who] = seconds.get(who, 0.0) + max(0.0, (length_s if span.end_s is None else span.end_s) - span.start_s)
        attempts[who] = attempts.get(who, 0) + 1
        lines[who] = lines.get(who, 0) + span.lines
    tiles = []
    for who in sorted(seconds, key=lambda one: (-lines[one], one)):
        name, host = who
        doing = f"{words.counted(attempts[who], 'attempt')}, {words.duration(seconds[who])}"
        utilization = min(1.0, seconds[who] / length_s)
        amount = f"{words.count(lines[who])} lines"
        tiles.append(Tile(name, host, WORKERS[BUSY], doing, utilization, amount, f"{name} on {host}: {doing}, {amount}"))
    return tiles


def _draw_tile(tile: Tile) -> str:
    return (
        f'<div class="worker" style="border-left-color:{tile.look.light}" title="{markup.text(tile.tooltip)}">'
        f'<div class="row"><span class="name cut">{markup.text(words.visible(tile.name, LONGEST_NAME))}</span>'
        f'<span class="unit percent">{markup.text(tile.amount)}</span></div>'
        f'<div class="row" style="align-items:center">{markup.bar((tile.utilization, markup.area(tile.look)))}'
        f'<span class="percent" data-figure="utilization">{words.percent(tile.utilization)}</span></div>'
        f'<div class="doing cut">{markup.text(tile.doing)}</div></div>'
    )


def _in_order(name: str) -> tuple[str, int, str]:
    """``local-2`` before ``local-10``."""
    head = name.rstrip("0123456789")
    tail = name[len(head) :]
    return (head, int(tail[:18]) if tail else -1, name)
