"""A run's report: its story as one HTML file that needs nothing but a browser. Pure: from RunStory to text."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from bokeh.embed import components
from bokeh.model import Model
from bokeh.resources import Resources

from protheon_dask import __version__, words
from protheon_dask.model import REFUSALS_LOOKED, STAGES, Outcome
from protheon_dask.telemetry import palette, report_charts, told
from protheon_dask.telemetry.markup import text
from protheon_dask.telemetry.pages.markup import area, stroke, swatch
from protheon_dask.telemetry.report_charts import NAME_CHARACTERS
from protheon_dask.telemetry.report_style import CSS, PRINTING
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.telemetry.story import RunStory, Span

Charts = dict[str, report_charts.Drawing]
"""The drawings of a page by the names of their places."""

MOST_FAULTS: Final = 40
"""Attempts without effect that are listed in words; the time line has more."""

SCRIPTS: Final = Resources(mode="inline", components=["bokeh"])
"""Bokeh's own script in the file itself: it opens where there is no network."""


def report(story: RunStory) -> str:
    """One run as a page of HTML, complete in itself.

    Guarantee: whatever comes from outside is escaped. The size is bounded as the story's is: 1.3 MB for Bokeh's script, and a few more.
    """
    clock = report_charts.Clock(story)
    charts: Charts = {}
    body = "".join(_sections(story, clock, charts))
    figures: dict[str, Model] = {name: drawing.figure for name, drawing in charts.items()}
    scripts, places = components(figures) if figures else ("", {})
    for name, place in places.items():
        body = body.replace(_place(name), f'<div class="chart">{_legend(charts[name])}{place}</div>')
    title = text(told.what(story.statistics))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}: {text(story.statistics.state)}</title><style>{CSS}</style>"
        f"{SCRIPTS.render_js() if charts else ''}</head>\n<body><main>{body}</main>{scripts}{PRINTING if charts else ''}</body></html>\n"
    )


def _sections(story: RunStory, clock: report_charts.Clock, charts: Charts) -> Iterable[str]:
    """The page from its top to its bottom; drawings are put into charts, and their places into the text."""
    yield _head(story)
    yield _figures(story)
    yield _attempts(story, clock, charts)
    yield _over_time(story, clock, charts)
    yield _refused(story, clock, charts)
    yield _dead(story)
    yield _accounting(story.statistics)
    yield _files(story)
    yield _settings(story)
    yield f"<footer>Protheon {text(__version__)}, from the ledger as of {text(_moment(story.as_of))}. All times are in UTC.</footer>"


# --- head -------------------------------------------------------------------------------------------------------------------


def _head(story: RunStory) -> str:
    s = story.statistics
    look = palette.RUN_STATES[s.state]
    verdict = f'<span class="verdict" style="color:{look.light}">{look.symbol} {text(s.state)}</span>'
    sentences = [f"{verdict}{f': {text(reason)}' if (reason := told.why(s)) else ''}"]
    submitted = f"submitted {_moment(story.submitted_at)}"
    if story.ended_at is None:
        sentences.append(f'{text(submitted)}, <b class="live">as of {text(_moment(story.as_of))}: it goes on</b>')
    else:
        sentences.append(text(f"{submitted}, ended {_moment(story.ended_at)}"))
    if story.bound:
        sentences.append(f"<b>{text(story.bound)}</b>")
    if s.skipped_files and s.skipped_files == s.files:
        sentences.append("Nothing was loaded: its files had been loaded before. The numbers are those of their loads.")
    return f"<h1>{text(told.what(s))}</h1>{''.join(f'<p>{sentence}</p>' for sentence in sentences)}"


def _figures(story: RunStory) -> str:
    """The numbers that people ask for first."""
    s = story.statistics
    figures = [
        ("time", words.duration(s.seconds), ""),
        ("lines", words.count(s.lines), f"of {'' if s.split_done else '~'}{words.count(s.estimated_lines)}"),
        ("chunks", words.count(s.chunks_done), f"of {'' if s.split_done else '~'}{words.count(s.chunks)}"),
    ]
    if s.own_lines:
        figures += [
            ("lines/s", words.rate(s.lines_per_s), ""),
            ("rows/s", words.rate(s.rows_per_s), ""),
            ("MB/s raw", words.rate(s.raw_mb_per_s), f"{words.size(s.own_raw_bytes)} in all"),
        ]
    if s.wire_bytes:
        figures.append(("on the wire", words.size(s.wire_bytes), ""))
    if story.n_workers:
        figures.append(("workers", words.count(story.n_workers), f"on {words.counted(story.n_hosts, 'host')}"))
    figures += [
        ("rejects", words.count(s.rejected), words.counted(s.rejected_parts, "part") if s.rejected_parts else ""),
        ("retries", words.count(s.retries), ""),
        ("dead letters", words.count(s.dead_letters), ""),
    ]
    shown = (f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(more)}</small></dd></div>" for name, value, more in figures)
    return f'<dl class="figures">{"".join(shown)}</dl>'


def _moment(at: float) -> str:
    return words.clock(datetime.fromtimestamp(at, UTC)).removesuffix("Z")


# --- attempts ---------------------------------------------------------------------------------------------------------------


def _attempts(story: RunStory, clock: report_charts.Clock, charts: Charts) -> str:
    s = story.statistics
    if not story.spans:
        before = "; what is loaded was loaded by other runs" if s.lines else ""
        return _section("Attempts", f"<p>It made no attempt{before}.</p>")
    charts["time-line"] = report_charts.time_line(story, clock)
    many = ""
    if story.n_attempts > len(story.spans):
        many = f" Drawn are {words.count(len(story.spans))} of them: those without effect first, the others chosen evenly."
    own = ""
    if s.lines > s.own_lines:
        own = f" They committed {words.counted(s.own_lines, 'line')}; {words.count(s.lines - s.own_lines)} were committed by other runs."
    note = (
        f"{words.counted(story.n_attempts, 'attempt')} by {words.counted(story.n_workers, 'worker')} on "
        f"{words.counted(story.n_hosts, 'host')}: a bar each, in the lane of its worker.{many}{own} "
        "The stages of an attempt take turns, batch by batch: here each is drawn in one piece, as long as it took in all."
    )
    return _section("Attempts", _note(text(note)), _place("time-line"), _faults(story))


def _faults(story: RunStory) -> str:
    """What ended without effect, in words: a drawing alone cannot be read out, or found by searching."""
    faults = [span for span in story.spans if span.outcome not in (None, Outcome.SUCCEEDED)]
    if not faults:
        return ""
    heads = ("at", "chunk", "attempt", "worker", "ended", "error")
    listed = [
        (
            words.duration(span.start_s),
            _chunk(span),
            span.attempt_no,
            words.visible(span.worker, NAME_CHARACTERS),
            _ending(span),
            _error(span),
        )
        for span in faults[:MOST_FAULTS]
    ]
    more = ""
    if len(faults) > MOST_FAULTS:
        more = _note(f"The first {MOST_FAULTS} of {words.count(len(faults))}: <code>protheon attempts {story.statistics.run}</code>")
    return f"<h3>Attempts without effect</h3>{_table(heads, listed, right=(0, 2), wide=(5,))}{more}"


def _chunk(span: Span) -> str:
    if span.chunk_no is None:
        return f"task {span.task_id}"
    return f"{words.count(span.chunk_no)} of {_file_name(span.path or '')}"


def _file_name(path: str) -> str:
    return words.visible(path.rsplit("/", 1)[-1], NAME_CHARACTERS)


def _ending(span: Span) -> str:
    return palette.OUTCOMES[span.outcome].label if span.outcome is not None else "it runs"


def _error(span: Span) -> str:
    return told.short_error(span.error_class, span.message)


# --- over time --------------------------------------------------------------------------------------------------------------


def _over_time(story: RunStory, clock: report_charts.Clock, charts: Charts) -> str:
    if not story.spans:
        return ""
    charts["lines"] = report_charts.rates(story, clock, ("lines_per_s", "rows_per_s"), "a second")
    charts["bytes"] = report_charts.rates(story, clock, ("raw_bytes_per_s", "wire_bytes_per_s"), "MB a second")
    charts["stages"] = report_charts.time_spent(story, clock)
    mean_s = words.duration(report_charts.smoothing_bins(story) * story.bin_s)
    shown = _section("Rates", _note(f"Of committed work, averaged over {mean_s}."), _place("lines"), _place("bytes"))
    shown += _section("Where the time went", _stage_bars(story.statistics), _place("stages"))
    if (troubles := report_charts.troubles(story, clock)) is not None:
        charts["troubles"] = troubles
        shown += _section("Retries by cause, and dead letters", _place("troubles"))
    return shown


def _stage_bars(s: RunStatistics) -> str:
    total_s = sum(s.stage_seconds.values())
    if not total_s:
        return ""
    bars = []
    for name in STAGES:
        seconds, look = s.stage_seconds.get(name, 0.0), palette.STAGES[name]
        share = seconds / total_s
        bar = f'<span class="bar"><span style="width:{100 * share:.2f}%;background:{area(look)}"></span></span>'
        label, part = f"{swatch(look)}{text(look.label)}", f"{100 * share:.1f} %"
        bars.append(f"<tr><th>{label}</th><td>{bar}</td><td>{part}</td><td>{words.duration(seconds)}</td></tr>")
    return f'<table class="bars"><caption>Seconds of the attempts that succeeded</caption>{"".join(bars)}</table>'


# --- what was refused, and what is dead -------------------------------------------------------------------------------------


def _refused(story: RunStory, clock: report_charts.Clock, charts: Charts) -> str:
    s = story.statistics
    if not (s.rejected or s.rejected_parts):
        return ""
    if (drawn := report_charts.rejects(story, clock)) is not None:
        charts["rejects"] = drawn
    heads = ("lines", "reason", "table", "SQLSTATE", "the first one")
    listed = [
        (
            words.count(r.n),
            r.reason,
            r.table or "",
            r.sqlstate or "",
            f"line {words.count(r.line_no)} of {_file_name(r.path)}",
        )
        for r in s.refusals
    ]
    looked = s.refusals[0].n_looked if s.refusals else 0
    of = f" Counted among {words.count(looked)} of them." if looked >= REFUSALS_LOOKED else ""
    left = f"Why lines of its files are still refused, the commonest reasons first.{of}" if listed else "None of them is still refused."
    parts = [_note(text(left))]
    if listed:
        see, mended = f"<code>protheon rejects show {s.run}</code>", f"<code>protheon rejects replay {s.run}</code>"
        parts += [_table(heads, listed, right=(0,), wide=(1,)), _note(f"See {see}; once their cause is mended: {mended}")]
    return _section("Rejects by reason", *parts, _place("rejects") if drawn is not None else "")


def _dead(story: RunStory) -> str:
    s = story.statistics
    if not s.chunks_dead:
        return ""
    heads = ("chunks", "gave up", "error")
    listed = [(words.count(d.n), d.reason, told.short_error(d.error_class, d.message)) for d in s.deaths]
    purged = s.chunks_dead - s.dead_letters
    gone = f"<p>{words.counted(purged, 'dead chunk was', 'dead chunks were')} purged: nobody will try them again.</p>" if purged else ""
    hint = f"See <code>protheon dlq show {s.run}</code>; once their cause is mended: <code>protheon dlq replay {s.run}</code>"
    return _section("Dead letters", _table(heads, listed, right=(0,), wide=(1, 2)) if listed else "", gone, _note(hint))


# --- accounting -------------------------------------------------------------------------------------------------------------


def _accounting(s: RunStatistics) -> str:
    """Both identities with their numbers: who doubts them can add."""
    where = [("loaded", s.loaded), ("filtered", s.filtered), ("rejected", s.rejected), ("blank", s.blank)]
    sums = " + ".join(f"{words.count(n)} {name}" for name, n in where)
    lines = f"<p>{_holds(s.lines == sum(n for _, n in where))} {words.counted(s.lines, 'committed line')} = {sums}</p>"
    if s.rejected_parts:
        lines += _note(f"{words.counted(s.rejected_parts, 'part of a loaded line was', 'parts of loaded lines were')} refused.")
    left = s.estimated_lines - s.lines
    if left > 0:
        about = "" if s.split_done else "about "
        states = ((s.chunks_ready, "ready"), (s.chunks_running, "in flight"), (s.chunks_dead, "dead"), (s.chunks_cancelled, "cancelled"))
        of = ", ".join(f"{words.count(n)} {name}" for n, name in states if n)
        lines += f"<p><b class='bad'>{about}{words.counted(left, 'line')} not committed</b>{f' (chunks: {of})' if of else ''}</p>"
    heads = ("table", "offered", "", "inserted", "updated", "ignored", "")
    listed = [
        (c.table, words.count(c.offered), "=", words.count(c.inserted), words.count(c.updated), words.count(c.ignored), _sign(c))
        for c in s.rows
    ]
    rows = _table(heads, listed, right=(1, 3, 4, 5), wide=(0,)) if listed else "<p>No rows.</p>"
    hint = f"Sums over all of its files, whoever loaded them. <code>protheon runs verify {s.run}</code> proves them chunk by chunk."
    return _section("Accounting", "<h3>Lines</h3>", lines, "<h3>Rows</h3>", rows, _note(hint))


def _sign(count: Any) -> str:
    return "✓" if count.offered == count.inserted + count.updated + count.ignored else "✗ does not add up"


def _holds(is_so: bool) -> str:
    return "<b class='good'>✓</b>" if is_so else "<b class='bad'>✗ does not add up:</b>"


# --- files and settings -----------------------------------------------------------------------------------------------------


def _files(story: RunStory) -> str:
    if not story.files:
        return ""
    heads = ("file", "came as", "state", "stored", "chunks", "dead", "lines", "rejects")
    listed = [
        (
            f.path,
            f.joined,
            _file_state(f),
            words.size(f.size_bytes),
            f"{words.count(f.chunks_done)} of {words.count(f.chunks)}",
            words.count(f.chunks_dead),
            words.count(f.lines),
            words.count(f.rejected),
        )
        for f in story.files
    ]
    more = ""
    if story.statistics.files > len(listed):
        more = _note(f"{len(listed)} of {words.count(story.statistics.files)}: <code>protheon files {story.statistics.run}</code>")
    return _section("Files", _table(heads, listed, right=(3, 4, 5, 6, 7), wide=(0, 2)), more)


def _file_state(file: Any) -> str:
    if file.undone:
        return "undone"
    if file.split_state in ("damaged", "changed", "failed"):
        return f"{file.split_state}: {file.split_message or ''}"
    return "loaded" if file.is_finished else {"pending": "not yet cut", "splitting": "being cut"}.get(file.split_state, "not all loaded")


def _settings(story: RunStory) -> str:
    s = story.statistics
    facts = [("pipeline", s.pipeline), *story.settings.items(), ("paths", ", ".join(shlex.quote(path) for path in s.paths))]
    listed = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in facts)
    notices = "".join(f"<li>{text(notice)}</li>" for notice in s.notices)
    told_then = f"<h3>Notices</h3><ul>{notices}</ul>" if notices else ""
    return _section("Settings", f"<table class='facts'>{listed}</table>", told_then)


# --- parts ------------------------------------------------------------------------------------------------------------------


def _place(name: str) -> str:
    """Where a drawing comes; no text that is escaped can hold it."""
    return f"<!--chart:{name}-->"


def _legend(drawing: report_charts.Drawing) -> str:
    sign = stroke if drawing.as_lines else swatch
    return f'<div class="legend">{"".join(f"<span>{sign(look)}{text(look.label)}</span>" for look in drawing.looks)}</div>'


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{text(title)}</h2>{''.join(parts)}</section>"


def _note(html: str) -> str:
    return f"<p class='note'>{html}</p>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = (), wide: Sequence[int] = ()) -> str:
    """right: columns of numbers. wide: columns of long texts, which are broken into lines anywhere; all others are not."""

    def cells(kind: str, values: Sequence[object]) -> str:
        names = ("n" if no in right else "w" if no in wide else "k" for no in range(len(values)))
        return "".join(f"<{kind} class={name}>{text(str(value))}</{kind}>" for name, value in zip(names, values, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells("th", heads)}</tr></thead><tbody>{body}</tbody></table></div>'
