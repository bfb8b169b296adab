"""docs/telemetry.md names every event with its facts and every metric, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from protheon_dask.broker import http
from protheon_dask.telemetry.metrics import COUNTER, INFO, METRICS, Metric, workers_json
from tests.unit.telemetry.test_metrics import PICTURE

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "telemetry.md"
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error", "critical": "critical"}
EVENT = re.compile(r"[a-z]+(?:\.[a-z]+(?:_[a-z]+)*)+")


class Event(NamedTuple):
    """What one call of a logger says, wherever it stands."""

    name: str
    level: str
    facts: frozenset[str]


def calls_of_loggers(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "logger"
            and node.func.attr in {*LEVELS, "log"}
        ):
            yield node


def event_of(call: ast.Call, where: str) -> Event:
    """The event of a call. Fails where it is not to be read off: a constant name, and facts by constant names."""
    assert isinstance(call.func, ast.Attribute)
    assert call.func.attr in LEVELS, f"{where}: the level is the method's name"
    assert len(call.args) == 1, f"{where}: facts go into extra, not into the text"
    [name] = call.args
    assert isinstance(name, ast.Constant), f"{where}: the event is a constant"
    assert EVENT.fullmatch(str(name.value)), f"{where}: {name.value!r} is no dotted event"
    facts: set[str] = set()
    for keyword in call.keywords:
        assert keyword.arg in ("extra", "exc_info"), f"{where}: {keyword.arg}="
        if keyword.arg == "extra":
            assert isinstance(keyword.value, ast.Dict), f"{where}: facts are written where the event is, as one dict"
            for key in keyword.value.keys:
                assert isinstance(key, ast.Constant), f"{where}: a fact's name is a constant"
                facts.add(str(key.value))
    return Event(str(name.value), LEVELS[call.func.attr], frozenset(facts))


def events_of(source: str, where: str) -> set[Event]:
    return {event_of(call, f"{where}:{call.lineno}") for call in calls_of_loggers(ast.parse(source))}


def events_of_the_code() -> set[Event]:
    found: set[Event] = set()
    for path in sorted((ROOT / "protheon_dask").rglob("*.py")):
        if path.parent.name != "_pb":
            found |= events_of(path.read_text(), str(path.relative_to(ROOT)))
    return found


def table_after(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    lines = PAGE.read_text().split(f"\n{heading}\n", 1)[1].splitlines()
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
        assert not line.startswith("#"), f"no table below {heading}"
    return rows[2:]


def code_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def events_of_the_page() -> list[tuple[Event, list[str]]]:
    return [(Event(*code_in(row[0]), row[1], frozenset(code_in(row[2]))), row[3:]) for row in table_after("## Events")]


def test_the_page_has_every_event_of_the_code_with_its_level_and_facts_and_no_other() -> None:
    told = [event for event, _ in events_of_the_page()]
    assert sorted(set(told) ^ events_of_the_code()) == []
    assert len(told) == len(set(told))


def test_an_event_is_the_same_wherever_it_is_said() -> None:
    names = [event.name for event in events_of_the_code()]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_each_event_says_what_it_means_and_what_to_do_and_they_are_in_order() -> None:
    told = events_of_the_page()
    assert [event.name for event, _ in told] == sorted(event.name for event, _ in told)
    for event, (means, to_do) in told:
        assert means.endswith("."), event.name
        assert to_do.endswith("."), event.name


def test_logging_configures_nothing_and_no_logger_has_another_name() -> None:
    """Else the search above would miss it: every module logs as `logger`, named after itself."""
    for path in (ROOT / "protheon_dask").rglob("*.py"):
        text = path.read_text()
        for line in text.splitlines():
            if "getLogger(" in line and path.name != "logs.py":
                assert line == "logger = logging.getLogger(__name__)", f"{path.relative_to(ROOT)}: {line}"
        assert not re.search(r"\blogging\.(debug|info|warning|error|exception|basicConfig)\(", text), path


@pytest.mark.parametrize(
    "call",
    [
        'logger.info(f"run.{x}")',
        'logger.info("run.end", x)',
        'logger.info("something happened")',
        'logger.info("run.end", extra=facts)',
        'logger.info("run.end", extra={**facts})',
        'logger.info("run.end", extra={name: 1})',
        'logger.log(10, "run.end")',
    ],
)
def test_what_cannot_be_read_off_the_code_is_refused(call: str) -> None:
    with pytest.raises(AssertionError):
        events_of(call, "here")


def openmetrics_name(metric: Metric) -> str:
    name = metric.family + {COUNTER: "_total", INFO: "_info"}.get(metric.kind, "")
    if not metric.label:
        return name
    return f'{name}{{{metric.label}="{metric.value}"}}' if metric.value else f"{name}{{{metric.label}}}"


def columns(rows: Iterable[list[str]], *numbers: int) -> list[tuple[str, ...]]:
    return [tuple(row[number].strip("`") for number in numbers) for row in rows]


def test_the_page_has_every_metric_in_both_its_forms_in_order() -> None:
    want = [(m.key, openmetrics_name(m) if m.family else "", m.kind, m.unit, m.meaning) for m in METRICS]
    assert columns(table_after("## Metrics"), 0, 1, 2, 3, 4) == want


def test_the_values_of_each_label_are_on_the_page() -> None:
    text = PAGE.read_text()
    for metric in METRICS:
        if metric.values:
            assert f"`{metric.label}`: {', '.join(f'`{value}`' for value in metric.values)}." in text


def test_the_page_has_every_field_of_a_worker_and_every_path() -> None:
    worker = workers_json(PICTURE)["a-0"]
    assert columns(table_after("## Workers"), 0) == [(name,) for name in worker]
    assert [path for path in http.PATHS if f"`{path}`" not in PAGE.read_text()] == []
