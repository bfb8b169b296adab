"""Functions of the general queue: the decorator, what a function is given, and the JSON that goes in and comes out."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Generic, NoReturn, ParamSpec, Protocol, TypeVar, overload

from protheon_dask.errors import ConfigError, NotFound

MAX_JSON_BYTES: Final = 1 << 20
"""Of a payload, and of a result, in UTF-8: what is larger belongs into a table or a file, and its name into the payload."""

P = ParamSpec("P")
R = TypeVar("R")


class TaskContext(Protocol):
    """What a function may know of its own attempt, and do with it; its second parameter, if it takes two.

    Guarantee: what is written through ``connection`` is there exactly once, together with the task's result: it commits with the
               task's end or not at all, whatever dies. Effects elsewhere (a file, a message, another database) happen at least
               once: an attempt whose process was lost after them is repeated, so make them safe to repeat (by task_id, say).
    """

    @property
    def task_id(self) -> int:
        """Names the task: the same in each attempt."""

    @property
    def attempt_no(self) -> int:
        """From 1; a second attempt means that the first one failed or was lost."""

    def progress(self) -> None:
        """Say that the work goes on: the time until the attempt counts as stuck begins anew. Raises LeaseLost, as check()."""

    def check(self) -> None:
        """Raise LeaseLost once the task was cancelled, or is another attempt's: let it pass, nothing of this attempt counts any more."""

    @property
    def connection(self) -> Any:
        """A psycopg.Connection inside the transaction that ends the task, opened on first use.

        Return from the function to commit it, raise to roll it back: its commit(), rollback() and close() are refused. A statement that
        may fail belongs into ``with context.connection.transaction():``, a savepoint. While a statement runs, that is progress.
        Raises: LeaseLost; what PostgreSQL says.
        """


@dataclass(frozen=True)
class TaskFunction(Generic[P, R]):
    """A function that workers run for tasks of the queue. Called here, it is just the function."""

    name: str
    function: Callable[P, R]
    takes_context: bool

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)


@overload
def task(function: Callable[P, R], /) -> TaskFunction[P, R]: ...
@overload
def task(*, name: str | None = None) -> Callable[[Callable[P, R]], TaskFunction[P, R]]: ...
def task(
    function: Callable[P, R] | None = None, /, *, name: str | None = None
) -> TaskFunction[P, R] | Callable[[Callable[P, R]], TaskFunction[P, R]]:
    """Make a function of one payload known to the queue: ``def f(payload)`` or ``def f(payload, context)``.

    A task names it ``module:name`` and has one JSON value as payload; what the function returns, a JSON value too, is its result.
    Workers import the module, and run nothing of it but functions that are decorated. The function runs at least once; what it
    writes through ``context.connection`` is there exactly once (TaskContext).

    name:   another name than the function's own.
    Raises: ConfigError: it takes another number of parameters, or is no plain function.
    """

    def decorate(function: Callable[P, R]) -> TaskFunction[P, R]:
        title = name if name is not None else getattr(function, "__name__", "")
        if not title or ":" in title:
            raise ConfigError(f"task {title!r}: a name is not empty and has no colon; say @protheon.task(name=..)")
        if not callable(function) or inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise ConfigError(f"task {title}: decorate a plain function; a worker neither awaits nor iterates what it returns")
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = list(inspect.signature(function).parameters.values())
        given = [p for p in parameters if p.kind in kinds and p.default is p.empty]
        if len(given) not in (1, 2) or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
            raise ConfigError(f"task {title}: its function takes the payload, and the context if it wants it; this one takes {len(given)}")
        return TaskFunction(title, function, takes_context=len(given) == len(("payload", "context")))

    return decorate if function is None else decorate(function)


def find_task(handler: str) -> TaskFunction[..., object]:
    """The decorated function that ``module:name`` means.

    Raises:    NotFound: no such module or function; the text says which there are. ConfigError: it cannot be imported, or is not
               decorated.
    Guarantee: imports the module, which runs it, as find.find() does; calls nothing of it.
    """
    from protheon_dask.pipelines.find import import_named  # here: pipelines of all kinds come with it

    module_name, name = split_handler(handler)
    return task_of(import_named(module_name), name)


def split_handler(handler: str) -> tuple[str, str]:
    """The module and the name in ``module:name``. Raises ConfigError."""
    module_name, colon, name = handler.rpartition(":")
    if not (colon and name.isprintable() and name) or not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(f"handler {handler!r}: say module:name, of a function with @protheon.task in a module that workers can import")
    return module_name, name


def task_of(module: ModuleType, name: str) -> TaskFunction[..., object]:
    """The module's task of this name. Raises: NotFound: it has none; ConfigError: that is not decorated."""
    known = {value.name: value for value in vars(module).values() if isinstance(value, TaskFunction)}
    if name in known:
        return known[name]
    if hasattr(module, name):
        raise ConfigError(f"handler {module.__name__}:{name} is no task: decorate the function with @protheon.task")
    raise NotFound(f"handler {module.__name__}:{name}: the module has no task {name!r}; its tasks: {', '.join(known) or 'none'}")


# --- JSON ----------------------------------------------------------------------------------------------------------------


def to_json(value: object, what: str) -> str:
    """The JSON text of a value. what: the payload or result that it is, for the message. Raises ConfigError: it is none.

    Guarantee: PostgreSQL's jsonb takes it, which keeps neither the order of an object's keys nor the second of two equal ones.
    """
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except TypeError as exc:
        raise ConfigError(f"{what} is no JSON: {exc}; give None, booleans, numbers, texts, and lists and dicts of them") from exc
    except ValueError as exc:  # NaN, infinity, a list in itself
        raise ConfigError(f"{what} is no JSON: {exc}; JSON has no NaN, no infinity, and nothing that contains itself") from exc
    except RecursionError as exc:
        raise ConfigError(f"{what} is nested too deeply for JSON; make it flatter") from exc
    _check(text, value, what)
    return text


def check_json(text: str, what: str) -> None:
    """Raise ConfigError unless the text is one JSON value that PostgreSQL's jsonb takes. what: as to_json()."""
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as exc:
        raise ConfigError(f"{what} is nested too deeply for JSON; make it flatter") from exc
    except ValueError as exc:
        raise ConfigError(f"{what} is no JSON: {exc}") from exc
    _check(text, value, what)


def _check(text: str, value: object, what: str) -> None:
    """What JSON allows and jsonb does not, and the size."""
    left = [value]
    while left:
        match left.pop():
            case str(said) if "\0" in said:
                raise ConfigError(f"{what} has a NUL character (\\u0000), which PostgreSQL cannot keep: leave it out, or encode the text")
            case str(said) if _is_broken(said):
                raise ConfigError(f"{what} has half of a surrogate pair, which is no text: leave it out, or encode the text")
            case dict(inner):
                left += [*inner, *inner.values()]
            case list(inner) | tuple(inner):
                left += inner
            case _:
                pass
    n_bytes = len(text.encode())
    if n_bytes > MAX_JSON_BYTES:
        raise ConfigError(
            f"{what} has {n_bytes:,} bytes of JSON, and at most {MAX_JSON_BYTES:,} are taken: put the data into a table or a file, and "
            "its name here"
        )


def _is_broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:30]} is beyond what a double holds")
    return number
