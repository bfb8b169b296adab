"""How a run's report looks, on a screen and on paper."""

from __future__ import annotations

from typing import Final

from protheon_dask.telemetry.palette import LIGHT

CSS: Final = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: {LIGHT.background}; color: {LIGHT.text}; font: 14px/1.5 Helvetica, Arial, sans-serif; }}
main {{ max-width: 1500px; margin: 0 auto; padding: 20px 24px 40px; }}
h1 {{ font-size: 24px; margin: 0 0 8px; overflow-wrap: anywhere; }}
h2 {{ font-size: 18px; margin: 0 0 8px; }}
h3 {{ font-size: 14px; margin: 16px 0 6px; }}
p {{ margin: 4px 0; overflow-wrap: anywhere; }}
section {{ border-top: 1px solid {LIGHT.border}; margin-top: 22px; padding-top: 16px; }}
section > section {{ margin-top: 22px; }}
.verdict {{ font-weight: 700; }}
.live {{ color: {LIGHT.warning}; }}
.note, caption, footer, small, dt {{ color: {LIGHT.muted}; }}
.good {{ color: {LIGHT.good}; }}
.bad {{ color: {LIGHT.bad}; }}
.figures {{ display: flex; flex-wrap: wrap; gap: 10px; margin: 16px 0 0; }}
.figures div {{ background: {LIGHT.panel}; border: 1px solid {LIGHT.border}; border-radius: 5px; padding: 6px 12px; min-width: 104px; }}
dt {{ font-size: 12px; }}
dd {{ margin: 0; font-size: 19px; font-weight: 600; font-variant-numeric: tabular-nums; }}
small {{ display: block; font-size: 12px; font-weight: 400; min-height: 18px; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 13px; }}
caption {{ text-align: left; font-size: 12px; padding-bottom: 4px; }}
th, td {{ text-align: left; vertical-align: top; padding: 4px 14px 4px 0; border-bottom: 1px solid {LIGHT.faint}; }}
.k {{ white-space: nowrap; }}
.w, .facts td {{ overflow-wrap: anywhere; min-width: 110px; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 12px; margin: 8px 0 2px; }}
.chart {{ margin-bottom: 6px; }}
.picture {{ width: 100%; height: auto; max-height: 170mm; object-fit: contain; }}
thead th {{ color: {LIGHT.muted}; font-weight: 600; white-space: nowrap; }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.facts th {{ font-weight: 600; white-space: nowrap; }}
.bars {{ width: 100%; max-width: 760px; margin-bottom: 10px; }}
.bars th {{ font-weight: 400; white-space: nowrap; width: 1%; }}
.bars td:nth-child(n+3) {{ text-align: right; white-space: nowrap; width: 1%; font-variant-numeric: tabular-nums; }}
.bar {{ display: block; height: 14px; margin-top: 3px; background: {LIGHT.faint}; border-radius: 3px; overflow: hidden; }}
.bar > span {{ display: block; height: 100%; }}
svg {{ vertical-align: middle; margin-right: 5px; }}
.swatch {{ display: inline-block; vertical-align: -1px; margin-right: 6px; border-radius: 2px; }}
code {{ background: {LIGHT.panel}; padding: 1px 5px; border-radius: 3px; overflow-wrap: anywhere; }}
footer {{ border-top: 1px solid {LIGHT.border}; margin-top: 26px; padding-top: 10px; font-size: 12px; }}
@page {{ size: A4 landscape; margin: 12mm; }}
@media print {{
  body {{ font-size: 12px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
  main {{ padding: 0; max-width: none; }}
  h2, h3 {{ break-after: avoid; }}
  tr, .chart, .figures div {{ break-inside: avoid; }}
  .scroll {{ overflow: visible; }}
}}
"""

PRINTING: Final = """<script>
(() => {
  // A drawing has the width of the screen that it was drawn for: on paper its picture stands for it, as wide as the sheet.
  const pictures = [];
  addEventListener("beforeprint", () => {
    for (const root of Bokeh.documents.flatMap((its) => its.roots())) {
      const place = document.querySelector(`[data-root-id="${root.id}"]`);
      const view = Bokeh.index.get_one(root);
      if (!place || !view) continue;
      const picture = view.export("auto").canvas;
      picture.className = "picture";
      place.after(picture);
      place.style.display = "none";
      pictures.push([place, picture]);
    }
  });
  addEventListener("afterprint", () => {
    for (const [place, picture] of pictures.splice(0)) {
      picture.remove();
      place.style.display = "contents";
    }
  });
})();
</script>"""
"""For the page's end. Bokeh cannot draw anew within the time that a browser leaves before it prints."""
