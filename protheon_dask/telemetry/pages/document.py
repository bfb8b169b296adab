"""Pages from panels: /protheon with all of them, and one page for each, for JupyterLab's side panel. Bokeh inside Dask's dashboard."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from bokeh.document import Document
from bokeh.models import Column, InlineStyleSheet
from distributed.dashboard.components.scheduler import BOKEH_THEME, env

from protheon_dask.telemetry.pages.chunks import Chunks
from protheon_dask.telemetry.pages.headline import Headline
from protheon_dask.telemetry.pages.panel import Panel
from protheon_dask.telemetry.pages.progress import Progress
from protheon_dask.telemetry.pages.stages import Stages
from protheon_dask.telemetry.pages.throughput import Throughput
from protheon_dask.telemetry.pages.troubles import Troubles
from protheon_dask.telemetry.pages.view import View
from protheon_dask.telemetry.pages.workers import Workers
from protheon_dask.telemetry.pages.workspace import Workspace
from protheon_dask.telemetry.series import Told

logger = logging.getLogger(__name__)

INTERVAL_MS: Final = 1_000
"""Pictures come once a second."""
PLUGIN: Final = "protheon"
SINGLE: Final[Mapping[str, type[Panel]]] = {
    "progress": Progress,
    "throughput": Throughput,
    "chunks": Chunks,
    "workers": Workers,
    "stages": Stages,
    "troubles": Troubles,
    "workspace": Workspace,
}
"""Panels that have a page each, by the end of its address."""
GRID_CSS: Final = """
:host { display: grid !important; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) !important; gap: 10px; align-items: stretch; }
:host > * { min-width: 0; align-self: stretch !important; height: auto !important; }
@media (max-width: 1100px) { :host { grid-template-columns: minmax(0, 1fr) !important; } }
"""


class Scheduler(Protocol):
    """What is needed of Dask's scheduler."""

    plugins: Mapping[str, Any]


Doc = Callable[[Any, Mapping[str, Any], Document], None]


def whole_page(scheduler: Scheduler, extra: Mapping[str, Any], doc: Document) -> None:
    """/protheon, and /protheon?run=7 for one run."""
    view = _view(scheduler, doc)
    headline = Headline(view, on_choice=lambda: _draw(panels))
    parts = {name: kind(view) for name, kind in SINGLE.items()}
    panels: list[Panel] = [headline, *parts.values()]
    grid = Column(
        children=[parts[name].root for name in ("throughput", "troubles", "stages", "workspace")],
        sizing_mode="stretch_width",
        stylesheets=[InlineStyleSheet(css=GRID_CSS)],
    )
    doc.add_root(
        Column(
            children=[headline.root, parts["progress"].root, parts["chunks"].root, grid, parts["workers"].root],
            sizing_mode="stretch_width",
            styles={"gap": "10px", "padding": "10px 0 24px"},
            name="protheon",
        )
    )
    _serve(doc, view, panels, "Protheon")
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)


def single_page(kind: type[Panel]) -> Doc:
    """A page that one panel fills; ``?run=7`` shows one run there too."""

    def page(scheduler: Scheduler, _extra: Mapping[str, Any], doc: Document) -> None:
        view = _view(scheduler, doc)
        panel = kind(view, alone=True)
        doc.add_root(panel.root)
        _serve(doc, view, [panel], f"Protheon: {kind.title}")

    return page


def _view(scheduler: Scheduler, doc: Document) -> View:
    def told() -> Told | None:
        return scheduler.plugins.get(PLUGIN)

    return View(told, time.monotonic, _asked_run(doc))


def _asked_run(doc: Document) -> int | None:
    """The number of ``?run=``; anything else there is no run."""
    request = getattr(doc.session_context, "request", None)  # none where a document was made without a browser
    for value in request.arguments.get("run", ()) if request else ():
        text = value.decode("ascii", "replace")
        if text.isdecimal() and len(text) <= 18 and int(text):
            return int(text)
    return None


def _serve(doc: Document, view: View, panels: Sequence[Panel], title: str) -> None:
    def tick() -> None:
        view.refresh()
        _draw(panels)

    _draw(panels)
    doc.theme = BOKEH_THEME
    doc.title = title
    doc.add_periodic_callback(tick, INTERVAL_MS)


def _draw(panels: Sequence[Panel]) -> None:
    for panel in panels:
        panel.update()
