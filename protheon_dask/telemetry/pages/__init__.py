"""Bokeh pages inside Dask's dashboard. Imported by the scheduler's preload alone: it loads Bokeh and Dask's dashboard."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Final

from protheon_dask.telemetry.pages.document import SINGLE, single_page, whole_page

PAGE: Final = "protheon"


def register(applications: MutableMapping[str, Any]) -> None:
    """Add /protheon and each panel's page to the dashboard's applications.

    Guarantee: to be called while the preload is imported, before Dask's scheduler makes its dashboard of them; safe to repeat.
    Source:    PITFALLS 6: distributed.dashboard.scheduler.applications.
    """
    applications[f"/{PAGE}"] = whole_page
    for name, kind in SINGLE.items():
        applications[f"/individual-protheon-{name}"] = single_page(kind)


def add_to_nav(scheduler: Any) -> None:
    """Name the page in the navigation of every page of the dashboard, after Dask's own first one. Safe to repeat."""
    from distributed.dashboard.scheduler import template_variables

    pages = template_variables(scheduler)["pages"]  # memoized by Dask: the same list for each page that is drawn
    if PAGE not in pages:
        pages.insert(1, PAGE)
