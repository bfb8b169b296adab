"""The cards as a browser draws them inside of a notebook's page: readable in both themes, nothing overlapping, clipped or cut off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from protheon_dask.model import TableCount
from protheon_dask.run.verify import TableCheck, Verdict, Verification
from protheon_dask.telemetry.card import ClusterFacts, cluster_html, run_html, runs_html, verification_html
from tests.fixtures.browser import OpenPage, Watched
from tests.fixtures.cards import LINK, RATES, STATES, scene
from tests.unit.cli.pictures import picture_of

NARROW, WIDE = 420, 1200
CONTRAST: Final = 4.5  # WCAG 2.2, 1.4.3, level AA

LONG: Final = "/data/" + "a-very-long-directory-name/" * 4 + "reports-" + "of-the-whole-season-" * 12 + "part-0001.jsonl.zst"
UNBROKEN: Final = "x" * 400
RTL: Final = "/data/דוחות-של-העונה-כולה.jsonl.zst"
HOSTILE: Final = '</div><script>document.title = "taken"</script><style>*{display:none}</style>\u202e'
TABLES: Final = tuple(TableCount(f"season.{name}", 10**9, 10**9 - 5, 3, 2) for name in ("player", UNBROKEN, "weapon_of_player"))
ROWS: Final = "rows that are in the tables, chunk by chunk"
BARE: Final = TableCheck("public.b", False, Verdict.NOT_LOOKED_AT, why_not="no provenance", lacks_provenance=True)
FOUND: Final = ("table public.t: chunk 2 of /data/x.jsonl (lines 11 to 20): 10 rows were loaded, 9 are there: 1 is missing", UNBROKEN)
DIFFERS: Final = TableCheck("public.t", True, Verdict.DIFFERS, FOUND, n_rows=24, n_chunks=3, n_summed=2)

MEASURE: Final = """([least]) => {
    const parse = (color) => color.match(/[0-9.]+/g).map(Number);
    const part = (value) => value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    const below = (one) => {
        for (let at = one; at; at = at.parentElement) {
            const color = parse(getComputedStyle(at).backgroundColor);
            if (color.length < 4 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    const bad = [];
    const cards = [...document.querySelectorAll('.protheon-card')];
    for (const card of cards) {
        const edge = card.getBoundingClientRect();
        const told = (one) => card.getAttribute('aria-label') + ': ' + one.className + ' ' + one.textContent.slice(0, 40);
        if (edge.left < 0 || edge.right > document.documentElement.clientWidth) bad.push('beside the page: ' + told(card));
        if (card.scrollWidth > card.clientWidth) bad.push('wider than its card: ' + told(card));
        for (const one of card.querySelectorAll('*')) {
            const box = one.getBoundingClientRect();
            if (!box.width || !box.height) continue;
            const scrolls = one.closest('.p-wide') && !one.classList.contains('p-wide');
            if (!scrolls && (box.left < edge.left || box.right > edge.right || box.top < edge.top || box.bottom > edge.bottom))
                bad.push('out of its card: ' + told(one));
            if (!['visible', 'auto'].includes(getComputedStyle(one).overflowX) && one.scrollWidth > one.clientWidth)
                bad.push('clipped: ' + told(one));
            const says = [...one.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.textContent.trim());
            if (!says) continue;
            const [high, low] = [luminance(parse(getComputedStyle(one).color)), luminance(below(one))].sort((a, b) => b - a);
            const ratio = (high + 0.05) / (low + 0.05);
            if (ratio < least) bad.push(ratio.toFixed(2) + ' : 1 for ' + told(one));
        }
    }
    return [cards.length, bad];
}"""
"""Cards on the page, and what is wrong in them: out of its card, clipped, or hard to read against what is really below it."""


def cards() -> dict[str, str]:
    """Every kind of card, and what is hard to draw."""
    drawn = {name: run_html(scene(name), RATES, LINK) for name in STATES}
    drawn["long names"] = run_html(picture_of(pipeline=UNBROKEN, paths=(LONG, "/b"), reason=UNBROKEN, notices=(LONG, RTL)), RATES, LINK)
    drawn["hostile"] = run_html(picture_of(pipeline=HOSTILE, paths=(HOSTILE,), reason=HOSTILE), RATES, LINK)
    drawn["right to left"] = run_html(picture_of(paths=(RTL,)), RATES, LINK)
    drawn["wide tables"] = run_html(replace(scene("incomplete"), rows=TABLES, reason=LONG), RATES, LINK)
    runs = [scene(name) for name in STATES]
    drawn["runs"] = runs_html([*runs, picture_of(pipeline=UNBROKEN, paths=(LONG,))])
    drawn["cluster"] = cluster_html(ClusterFacts("0.1.0", "127.0.0.1:50051", 2, "localhost:5432/reports", LINK, tuple(runs[:3])))
    drawn["empty cluster"] = cluster_html(ClusterFacts("0.1.0", UNBROKEN, 1, missing=("since 10:02:11 UTC: PostgreSQL is away",)))
    drawn["verified"] = verification_html(Verification(3, (), ("each chunk has one attempt that succeeded",), ("load 1: undone",), (BARE,)))
    drawn["differs"] = verification_html(Verification(3, FOUND, (ROWS,), (), (DIFFERS,), {ROWS: FOUND}))
    return drawn


@pytest.fixture(scope="module", params=["light", pytest.param("dark", marks=pytest.mark.slow)])
def notebook(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that nbconvert made, with JupyterLab's own styles, of a notebook with a cell for each card."""
    nbconvert = pytest.importorskip("nbconvert", reason="nbconvert is not installed")
    import nbformat

    cells = [
        {
            "cell_type": "code", "id": f"cell-{no}", "metadata": {}, "execution_count": no, "source": name,
            "outputs": [{"output_type": "display_data", "metadata": {}, "data": {"text/html": html, "text/plain": name}}],
        }
        for no, (name, html) in enumerate(cards().items(), start=1)
    ]  # fmt: skip
    document = nbformat.from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})  # type: ignore[no-untyped-call]
    body, _ = nbconvert.HTMLExporter(theme=request.param).from_notebook_node(document)
    path = tmp_path_factory.mktemp("cards") / f"{request.param}.html"
    path.write_text(body)
    return path


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_cards_in_a_notebook_are_readable_and_whole(notebook: Path, width: int, open_page: OpenPage, screenshots: Path) -> None:
    looked = open_page(notebook.as_uri(), width, offline=True)
    looked.page.screenshot(path=screenshots / f"cards-{notebook.stem}-{width}.png", full_page=True)
    assert measured(looked) == (len(cards()), [])
    for parts in (".p-line > *, .p-progress, .protheon-card > ul, .p-wide", ".protheon-card li", ".p-progress > *"):
        assert looked.overlaps(parts) == []
    if width == WIDE:  # else tables are scrolled
        assert looked.overlaps(".p-wide th, .p-name, .p-small > *, .p-number, .p-wide .p-state") == []
    assert looked.page.title() != "taken"


@pytest.mark.slow
def test_a_dark_editor_is_known_by_its_class(open_page: OpenPage, screenshots: Path, tmp_path: Path) -> None:
    for name, body in (("vscode-dark", '<body class="vscode-dark" style="background:#1f1f1f">'), ("plain", "<body>")):
        path = tmp_path / f"{name}.html"
        path.write_text(f"<!doctype html><meta charset=utf-8>{body}{''.join(cards().values())}")
        looked = open_page(path.as_uri(), 700, offline=True)
        looked.page.screenshot(path=screenshots / f"cards-{name}.png", full_page=True)
        assert measured(looked) == (len(cards()), [])
        background = looked.page.evaluate("getComputedStyle(document.querySelector('.protheon-card')).backgroundColor")
        assert background == ("rgb(17, 17, 17)" if name == "vscode-dark" else "rgb(255, 255, 255)")


def test_the_measure_finds_what_is_wrong(open_page: OpenPage, tmp_path: Path) -> None:
    broken = (
        '<div class="protheon-card" style="width:200px;height:40px;background:#fff">'
        '<div style="width:300px">wide</div><p style="color:#bbb">pale</p>'
        '<div style="overflow:hidden;width:40px">clippedclipped</div></div>'
    )
    path = tmp_path / "broken.html"
    path.write_text(f"<!doctype html><body style='background:#fff'>{broken}")
    n_cards, bad = measured(open_page(path.as_uri(), 700, offline=True))
    assert n_cards == 1
    for word in ("wider than its card", "out of its card", "clipped", ": 1 for"):
        assert any(word in told for told in bad), word


def measured(looked: Watched) -> tuple[int, list[Any]]:
    n_cards, bad = looked.page.evaluate(MEASURE, [CONTRAST])
    return n_cards, bad
