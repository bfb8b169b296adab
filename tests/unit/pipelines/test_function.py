"""Task functions: what the decorator takes, how a handler is found, and which JSON may travel."""

from __future__ import annotations

import json
import sys
import types
from typing import Any

import pytest

import protheon_dask as protheon
from protheon_dask.errors import ConfigError, NotFound
from protheon_dask.pipelines.function import MAX_JSON_BYTES, check_json, find_task, to_json


@protheon.task
def double(payload: int) -> int:
    return 2 * payload


@protheon.task(name="with context")
def told(payload: Any, context: protheon.TaskContext, spare: int = 1) -> Any:
    return [payload, context.task_id, spare]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType("some_tasks")
    made.__dict__.update(double=double, told=told, plain=lambda payload: payload)
    monkeypatch.setitem(sys.modules, "some_tasks", made)
    return made


def test_a_decorated_function_is_still_the_function() -> None:
    assert double(21) == 42
    assert (double.name, double.takes_context) == ("double", False)
    assert (told.name, told.takes_context) == ("with context", True)


def test_a_handler_is_found_by_its_name_in_its_module(module: types.ModuleType) -> None:
    assert find_task("some_tasks:double") is double
    assert find_task("some_tasks:with context") is told


@pytest.mark.parametrize(
    ("handler", "kind", "words"),
    [
        ("some_tasks:plain", ConfigError, "some_tasks:plain is no task: decorate the function with @protheon.task"),
        ("some_tasks:none", NotFound, "no task 'none'; its tasks: double, with context"),
        ("os:system", ConfigError, "os:system is no task"),
        ("no_such_module_here:f", NotFound, "no module 'no_such_module_here'"),
        ("double", ConfigError, "say module:name"),
        (":double", ConfigError, "say module:name"),
        ("some_tasks:", ConfigError, "say module:name"),
        ("../some_tasks:double", ConfigError, "say module:name"),
        ("some tasks:double", ConfigError, "say module:name"),
        ("some_tasks:dou\0ble", ConfigError, "say module:name"),
    ],
)
def test_what_is_no_task_is_refused_with_the_reason(module: types.ModuleType, handler: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        find_task(handler)


async def waits(payload: Any) -> None: ...


def yields(payload: Any) -> Any:
    yield payload


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: None, "takes 0"),
        (lambda a, b, c: None, "takes 3"),
        (lambda payload, *, needed: None, "takes 1"),
        (waits, "plain function"),
        (yields, "plain function"),
    ],
)
def test_a_function_that_cannot_be_called_so_is_refused_when_it_is_decorated(function: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        protheon.task(name="f")(function)


def test_a_name_with_a_colon_is_refused() -> None:
    with pytest.raises(ConfigError, match="no colon"):
        protheon.task(name="a:b")(lambda payload: None)


# --- JSON ---------------------------------------------------------------------------------------------------------------------

NESTED: list[Any] = []
for _ in range(100_000):
    NESTED = [NESTED]
ROUND: list[Any] = []
ROUND.append(ROUND)


@pytest.mark.parametrize("value", [None, True, 0, -1.5, "", "\u00e4\U0001f600", [], {}, {"a": [1, {"b": None}]}, (1, 2), 10**30])
def test_json_that_fits_travels_unchanged(value: Any) -> None:
    text = to_json(value, "it")
    assert json.loads(text) == (list(value) if isinstance(value, tuple) else value)
    check_json(text, "it")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "Object of type object is not JSON serializable; give None, booleans"),
        ({1, 2}, "type set"),
        (b"x", "type bytes"),
        ({"a": float("nan")}, "no NaN"),
        ([float("inf")], "no infinity"),
        ("a\0b", "NUL"),
        ({"a": [{"k\0": 1}]}, "NUL"),
        ("\ud800", "surrogate"),
        ("x" * MAX_JSON_BYTES, "1,048,578 bytes of JSON, and at most 1,048,576"),
        (["\u00e4" * (MAX_JSON_BYTES // 2)], "at most"),
        (ROUND, "contains itself"),
        (NESTED, "nested too deeply"),
    ],
    ids=lambda item: item if isinstance(item, str) and len(item) < 60 else type(item).__name__,
)
def test_a_value_that_jsonb_does_not_take_is_refused_with_the_reason(value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        to_json(value, "the result")
    assert str(refused.value).startswith("the result ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("1 2", "Extra data"),
        ("NaN", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number of JSON"),
        ("1e999", "beyond what a double holds"),
        ('"\\u0000"', "NUL"),
        ('{"\\u0000": 1}', "NUL"),
        ('"\\ud800"', "surrogate"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        (" " * MAX_JSON_BYTES + "1", "at most 1,048,576"),
    ],
)
def test_a_text_that_jsonb_does_not_take_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_json(text, "the payload")
